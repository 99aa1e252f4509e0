"""One kind of error for everything a user can put right, and the guard that turns it into one line and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

NEARLY_FULL = 1 << 20  # bytes
MOST_SHOWN = 300  # characters of another program's message
UNKNOWN = "unrecognized arguments: "  # how argparse's message begins
WRITER_ERRORS = ("os error", "inline_container", "iostream error")  # in messages of safetensors and PyTorch


class UserError(ValueError):
    """A wrong argument, file or checkpoint; one line says what was wrong, what was expected and the remedy."""


def did_you_mean(wrong: str, known: Mapping[str, str]) -> str:
    """A question with the name of the key of ``known`` (key: name) closest to ``wrong``; empty where none is close."""
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean '{known[close[0]]}'? " if close else ""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are :class:`UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(complaint(self, message))


def complaint(parser: argparse.ArgumentParser, message: str) -> str:
    """A parser's ``message`` with the flag, of a subcommand too, that is nearest to an unknown one."""
    unknown = message.removeprefix(UNKNOWN)
    hint = ""
    if unknown != message:
        flag, known = unknown.split()[0].partition("=")[0], {flag: flag for flag in flags_of(parser)}
        hint = f"{flag} is of another command, " if flag in known else did_you_mean(flag, known)
    return f"{message}: {hint}see {parser.prog} --help"


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of a parser and of its subcommands."""
    flags: list[str] = []
    for action in parser._actions:
        flags += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            flags += [flag for command in action.choices.values() for flag in flags_of(command)]
    return flags


def first_line(error: BaseException) -> str:
    """What an exception says in one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:MOST_SHOWN] if lines else type(error).__name__


def write_failure(error: Exception, folder: str | Path) -> UserError | None:
    """The one-line error for ``error`` when its cause is that ``folder`` can't be written; ``None`` for other causes.

    PyTorch and safetensors report a full disk with exceptions of their own, so the disk itself is asked too.
    """
    if isinstance(error, UserError):
        return None
    reason = error.strerror or str(error) if isinstance(error, OSError) else None
    if reason is None and any(mark in str(error) for mark in WRITER_ERRORS):
        reason = first_line(error)
    if reason is None and _free_space(Path(folder)) < NEARLY_FULL:
        reason = "No space left on device"
    if reason is None:
        return None
    return UserError(
        f"can't write to {folder} ({reason}): free space or choose another folder, then give the same command again"
    )


def _free_space(folder: Path) -> float:
    """Bytes free where ``folder`` is or would be."""
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return shutil.disk_usage(existing).free if existing is not None else float("inf")


def guard(main: Callable[[], None]) -> None:
    """Run an entry point; a :class:`UserError` becomes one line on stderr and exit code 2, an interrupt 130.

    A reader that stops reading (``| head``) ends it quietly with exit code 1.
    """
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush at the exit
        raise SystemExit(1) from None
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        raise SystemExit(130) from None
