"""Folders that are replaced as a whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from prumux.errors import write_failure


def save_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder, then put it in the place of ``folder``.

    Raises:
        UserError: the disk is full or can't be written to; what was in ``folder`` is still there.
    """
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        failure = write_failure(error, folder)  # asked before the temporary folder makes room again
        shutil.rmtree(temporary, ignore_errors=True)
        recover(folder)
        raise (failure or error) from error


def recover(folder: Path) -> None:
    """Put back what ``save_atomically`` had set aside when it was killed between its two renames."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
