"""The results store: one JSON line per finished run, appended whole, safe against two writers and a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.reports.provenance import provenance

logger = logging.getLogger(__name__)
DEFAULT = Path("results") / "runs.jsonl"
VARIABLE = "PRUMUX_RESULTS"  # environment: another file, or empty for none


def store_path() -> Path | None:
    """Where runs are recorded: ``results/runs.jsonl`` unless the environment says otherwise."""
    chosen = os.environ.get(VARIABLE)
    return DEFAULT if chosen is None else Path(chosen) if chosen else None


def append(kind: str, fields: Mapping[str, Any], seed: int | None, path: str | Path | None = None) -> None:
    """Add one line to the store: ``kind`` of run, its ``fields``, and how it was made.

    The line is written by one call to a file opened for appending, after a newline when a writer was killed within its
    own line, so lines of two writers never mix.

    Args:
        path: the file; ``None`` for :func:`store_path`.

    A file that can't be written costs a warning, not the run.
    """
    file = store_path() if path is None else Path(path)
    if file is None:
        return
    line = json.dumps({"kind": kind, **fields, "provenance": provenance(seed)}, default=str) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab+") as stream:
            _lock(stream.fileno())
            stream.seek(0, os.SEEK_END)  # another writer may have been before since it was opened
            if stream.tell() and not _ends_with_newline(stream):
                line = "\n" + line
            stream.write(line.encode())  # one write: the buffer is flushed once, when the file is closed
    except OSError as error:
        logger.warning(
            "the results store %s can't be written (%s): the run is not recorded in it", file, error
        )


def _lock(descriptor: int) -> None:
    """Wait for other writers where the system has locks; the lock goes with the descriptor."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _ends_with_newline(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def read_lines(paths: Iterable[str | Path]) -> Iterator[dict[str, Any]]:
    """The lines of stores; a line that a killed writer left unfinished is skipped with a warning.

    Raises:
        UserError: a file that can't be read or holds no JSON lines.
    """
    for path in map(Path, paths):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"can't read {path} ({error}): expected a results store (runs.jsonl) or a CSV file"
            ) from error
        found, broken = 0, 0
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # also of numbers and lists that no reader takes
                broken, last = broken + 1, number
                continue
            if isinstance(value, dict) and "kind" in value:
                found += 1
                yield value
        if found and broken:
            more = f", and {broken - 1} more" if broken > 1 else ""
            logger.warning(
                "%s: line %d is no whole JSON line (an interrupted run's)%s: skipped", path, last, more
            )
        if not found:
            raise UserError(f"{path} holds no results: expected a line of JSON per run, as runs.jsonl has")


def checkpoint_hash(folder: str | Path) -> str | None:
    """Short SHA-256 of a checkpoint's weights, ``None`` where there is no such file."""
    file = Path(folder) / "model.safetensors"
    if not file.is_file():
        return None
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
