"""The folder of a run: what it was asked to do, whether it is finished, where to resume, what may be deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.files import set_aside, temporary

RUN_FILE = "run.json"  # written last: where it is, the run is complete
STARTED_FILE = "arguments.json"  # written first: what the run in this folder was asked to do
BEST = "best"  # the model that the run is for
METRICS = "metrics.json"  # of a model, in its folder
ON_THE_WAY = (
    "sparsity"  # and its target: where a pruning through several targets leaves the models before the last
)
NARROW = "narrow"  # the run of the narrow encoder that a multiplexed model starts as copies of
LATENCY_FILE = "latency.json"  # times of the encoder's blocks, where the target is a speedup
# Flags that don't change what a run computes: a run may be continued with other values of these.
FREE_FLAGS = (
    "output_dir",
    "overwrite_output_dir",
    "logging_dir",
    "do_train",
    "do_eval",
    "disable_tqdm",
    "log_level",
)


def split_flags(argv: Sequence[str]) -> list[list[str]]:
    """A command line's flags, ``--one_way_spelled``, each with its values."""
    flags: list[list[str]] = []
    for argument in argv:
        if argument.startswith("--"):
            name, *value = argument.split("=", 1)
            flags.append(["--" + name[2:].replace("-", "_"), *value])
        elif flags:
            flags[-1].append(argument)
    return flags


def computing_flags(argv: Sequence[str], recipe: dict[str, Any]) -> list[str]:
    """What decides what a run computes, flags and recipe, in a comparable order."""
    flags = sorted(split_flags(argv))
    wanted = [" ".join(flag) for flag in flags if flag[0].removeprefix("--") not in FREE_FLAGS]
    return wanted + [f"recipe: {name}={value}" for name, value in recipe.items()]


def check_writable(output: Path) -> None:
    """Create the folder.

    Raises:
        UserError: it is a file or can't be written to.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output_dir {output} is a file: choose another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(f"can't write to {output} ({error.strerror}): choose another --output_dir") from error


def finished(output: Path, wanted: list[str]) -> dict[str, Any] | None:
    """The record of a finished run, ``None`` for a fresh or interrupted one.

    Raises:
        UserError: the folder holds another run, or files that no run wrote.
    """
    for name in (RUN_FILE, STARTED_FILE):
        try:
            found = json.loads((output / name).read_text(encoding="utf-8"))
        except OSError:
            continue
        except ValueError:  # not JSON: a run that was killed while writing leaves none, so it isn't ours
            found = None
        had = found.get("arguments") if isinstance(found, dict) else found
        if not isinstance(had, list):
            raise UserError(f"{output / name} was not written by a run: choose another --output_dir")
        if had != wanted:
            before = "; ".join(sorted({str(flag) for flag in had} - set(wanted))[:3])
            now = "; ".join(sorted(set(wanted) - {str(flag) for flag in had})[:3])
            raise UserError(
                f"{output} holds a run with other arguments (it had: {before or 'fewer'}; now: {now or 'fewer'}): "
                "give the same, choose another --output_dir, or pass --overwrite_output_dir"
            )
        if isinstance(found, dict) and (output / BEST / "config.json").is_file():
            return found
    if (output / BEST).exists() and not (output / STARTED_FILE).exists():
        raise UserError(f"{output / BEST} was not made by a run: choose another --output_dir")
    return None


def clear(output: Path) -> None:
    """Delete what a run writes, and nothing else."""
    if (output / NARROW).is_dir():
        clear(output / NARROW)
    for path in (output / RUN_FILE, output / STARTED_FILE):
        path.unlink(missing_ok=True)
    for folder in (
        *output.glob("checkpoint-*"),
        *output.glob(f"{ON_THE_WAY}*/{BEST}"),
        output / BEST,
        temporary(output / BEST),
        set_aside(output / BEST),
    ):
        shutil.rmtree(folder, ignore_errors=True)


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of an interrupted run; one that was being written when it died is removed."""
    found = [path for path in output.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    found.sort(key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        try:
            json.loads((found[-1] / "trainer_state.json").read_text(encoding="utf-8"))  # written last
            return found[-1]
        except (OSError, ValueError):
            shutil.rmtree(found.pop(), ignore_errors=True)
    return None
