"""The parser that all commands share: what it says of wrong flags."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prumux.__main__ import build_parser
from prumux.errors import UserError


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ("report runs.jsonl --markdwon x.md", "did you mean '--markdown'? "),  # of a subcommand
        ("grid grid.yaml --dryrun", "did you mean '--dry_run'? "),
        ("auto fit runs.jsonl --loss_budget 3", "--loss_budget is of another command, "),
        ("auto predict runs.jsonl --loss_budget 3 --topp=3", "did you mean '--top'? "),  # of its subcommand
        ("report runs.jsonl --qqqq", ""),
    ],
)
def test_a_misspelt_flag_names_the_nearest(argv: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        build_parser().parse_args(argv.split())
    assert str(error.value).endswith(f": {hint}see prumux --help")


def test_other_complaints_ask_nothing() -> None:
    with pytest.raises(UserError, match=r"expected one argument: see prumux report --help$"):
        build_parser().parse_args(["report", "runs.jsonl", "--html"])


def test_a_reader_that_stops_reading_sees_no_traceback() -> None:
    """As in ``prumux report runs.jsonl | head -1``."""
    command = [
        sys.executable,
        "-c",
        "from prumux.errors import guard; guard(lambda: print('line\\n' * 100_000))",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
