"""Finds the model of a triple TASK SPARSITY N: the best finetuned one, else the best pruned one.

The folders are those of the scripts, with their run.json as the sign that a run is complete::

    out/TASK/dense/best                                          sparsity 0, N = 1
    out/TASK/mux_N/best                                          sparsity 0, N > 1
    out/TASK/PruMUX/TASK_sparsityS_N_VERSION_ALPHA/best          pruned
    out/TASK/PruMUX/TASK_sparsityS_N_VERSION_ALPHA/FT-lrLR/best  finetuned after pruning
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.pruning.accounting import MAX_SPARSITY
from prumux.reports.methods import shown_sparsity

_PRUNED = re.compile(r"_sparsity(?P<sparsity>\d*\.?\d+)_(?P<instances>\d+)(_.*)?$")


@dataclass(frozen=True)
class FoundModel:
    """A run's best model.

    Attributes:
        path: the folder to load. run: what its run.json says, empty when the run isn't complete.
        sparsity: the target in the folder's name. num_instances: N. finetuned: finetuned after pruning.
    """

    path: Path
    sparsity: float
    num_instances: int
    finetuned: bool
    run: dict[str, Any]

    @property
    def score(self) -> float:
        """The run's main metric on the development set; -inf where run.json doesn't name one."""
        score = self.run.get("metrics", {}).get(self.run.get("main_metric"))
        return float(score) if isinstance(score, int | float) and not math.isnan(score) else -math.inf


def check_triple(sparsity: float | None, num_instances: int | None) -> None:
    """Raise a UserError for a sparsity outside [0, 0.99] or fewer than one instance; None passes."""
    if sparsity is not None and not 0 <= sparsity <= MAX_SPARSITY:
        raise UserError(
            f"sparsity {sparsity:g} is outside [0, {MAX_SPARSITY}]: give the share of weights to remove"
        )
    if num_instances is not None and num_instances < 1:
        raise UserError(f"N is {num_instances}: give 1 (no multiplexing) or more")


def locate(task: str, sparsity: float, num_instances: int, output_dir: str | Path = "out") -> FoundModel:
    """The model to evaluate for a triple.

    Args:
        task: the name of the task's folder (``Task.name`` for the tasks known by name).
        sparsity: the target sparsity, as in the folder's name; 0 means the model before pruning.
        num_instances: N.
        output_dir: the root of the scripts' output folders.

    Raises:
        UserError: the triple is out of range, or no complete run has it; the message lists what is there.
    """
    check_triple(sparsity, num_instances)
    models = list_models(task, output_dir)
    wanted = [model for model in models if _matches(model, sparsity, num_instances)]
    complete = [model for model in wanted if model.run]
    if complete:
        # finetuned before pruned, then by score; of equals the first by name
        return max(complete, key=lambda model: (model.finetuned, model.score))
    where = f"{shown(Path(output_dir) / task)}{os.sep}"
    unfinished = f"; {shown(wanted[0].path)} is of a run that hasn't finished (no run.json)" if wanted else ""
    there = ", ".join(
        dict.fromkeys(f"sparsity {shown_sparsity(m.sparsity)} N={m.num_instances}" for m in models if m.run)
    )
    raise UserError(
        f"no model of {task} with sparsity {shown_sparsity(sparsity)} and N={num_instances} in {where}{unfinished}; "
        f"there is: {there or 'none'}. Train it: {training_command(task, sparsity, num_instances)}, "
        "or name one with --model PATH"
    )


def list_models(task: str, output_dir: str | Path = "out") -> list[FoundModel]:
    """A task's models sorted by sparsity, N and path; those of unfinished runs have an empty ``run``."""
    root = Path(output_dir) / task
    models = []
    for folder in root.glob("*"):
        name = re.fullmatch(r"dense|mux_(\d+)", folder.name)
        if name:
            models.append(_found(folder, 0.0, int(name[1] or 1), finetuned=False))
    for folder in (root / "PruMUX").glob("*"):
        name = _PRUNED.search(folder.name)
        if name:
            triple = float(name["sparsity"]), int(name["instances"])
            models.append(_found(folder, *triple, finetuned=False))
            models.extend(_found(finetuned, *triple, finetuned=True) for finetuned in folder.glob("FT-*"))
    models = [model for model in models if (model.path / "config.json").is_file()]
    return sorted(models, key=lambda model: (model.sparsity, model.num_instances, str(model.path)))


def training_command(task: str, sparsity: float, num_instances: int) -> str:
    """The script call that creates the model of a triple."""
    if sparsity > 0:
        return f"bash scripts/run_PruMUX.sh {task} {shown_sparsity(sparsity)} {num_instances}"
    setting = "baseline" if num_instances == 1 else "finetuning"
    return f"bash scripts/run_glue.sh -N {num_instances} -s {setting} --task {task} --model_path MODEL"


def read_run(model_path: str | Path) -> dict[str, Any]:
    """The run.json of a model's run (``RUN/best`` -> ``RUN/run.json``); empty if there is none to read."""
    try:
        run = json.loads((Path(model_path).resolve().parent / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def shown(path: str | Path) -> str:
    """A path as a user wants to read it: relative to the working directory where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _found(folder: Path, sparsity: float, num_instances: int, finetuned: bool) -> FoundModel:
    best = folder / "best"
    return FoundModel(best, sparsity, num_instances, finetuned, read_run(best))


def _matches(model: FoundModel, sparsity: float, num_instances: int) -> bool:
    return model.num_instances == num_instances and math.isclose(model.sparsity, sparsity, abs_tol=5e-4)
