"""Where a number comes from (command, versions, hardware); JSON files, written whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from prumux.errors import UserError

PACKAGES = (
    "prumux",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
)


def provenance(seed: int | None = None) -> dict[str, Any]:
    """How a result was made: ``command, versions, hardware, seed`` and ``time`` (UTC, ISO 8601)."""
    return {
        "command": command(),
        "versions": versions(),
        "hardware": hardware(),
        "seed": seed,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def command() -> str:
    """The command line of this process as a user would type it."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return shlex.join(["python", "-m", script.parent.name, *sys.argv[1:]])
    try:
        name = os.path.relpath(script)
    except ValueError:  # another drive
        name = str(script)
    name = script.name if name.startswith("..") else name
    return shlex.join((["python"] if script.suffix == ".py" else []) + [name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """The processor, its cores, PyTorch's threads, and the GPU if there is one."""
    import torch

    described: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": None,
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["gpus"] = torch.cuda.device_count()
        described["cuda"] = torch.version.cuda
    return described


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as indented JSON; a reader sees the old file or the whole new one, never a part.

    Folders are created; numpy numbers and paths are converted.

    Raises:
        UserError: the file can't be written (read-only folder, full disk); the old file is left as it was.
    """
    path = Path(path)
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n"
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well, else is removed.

    Raises:
        UserError: an OSError inside the block or while replacing; ``path`` is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"can't write {path}: {reason}; free space or choose a folder that can be written"
        ) from error


def _plain(value: Any) -> Any:
    """A JSON value for what json doesn't know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def _cpu_name() -> str:
    """The processor's model name, as precisely as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
