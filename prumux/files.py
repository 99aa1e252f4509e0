"""Folders that are replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from prumux.errors import write_failure


def temporary(folder: Path) -> Path:
    """Where the new content of ``folder`` is gathered: one place, so that what a killed process left is found."""
    return folder.with_name(f".{folder.name}.prumux-new")


def set_aside(folder: Path) -> Path:
    """Where the former content of ``folder`` waits until the new one stands in its place."""
    return folder.with_name(f".{folder.name}.prumux-old")


def save_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder, then put it in the place of ``folder``. For one process at a time.

    Raises:
        UserError: the disk is full or can't be written to; what was in ``folder`` is still there.
    """
    new, old = temporary(folder), set_aside(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        write(new)
        _make_readable(new)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        failure = write_failure(error, folder)  # asked before the temporary folder makes room again
        shutil.rmtree(new, ignore_errors=True)
        recover(folder)
        raise (failure or error) from error


def _make_readable(folder: Path) -> None:
    """Give all files the rights that a new file gets here: safetensors lets only the owner read its own."""
    probe = folder / ".rights"
    probe.touch()
    rights = probe.stat().st_mode
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            with contextlib.suppress(OSError):  # a file system without rights
                file.chmod(rights)


def recover(folder: Path) -> None:
    """Put back what ``save_atomically`` had set aside when it was killed between its two renames."""
    old = set_aside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
