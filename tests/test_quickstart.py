"""The plan of `prumux quickstart` and the errors of the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prumux.__main__ import main
from prumux.quickstart import plan
from prumux.training.parsing import parse_arguments

PROJECT = Path(__file__).parents[1]
CONFIGS = PROJECT / "configs"


def test_every_step_parses_and_starts_from_an_earlier_one(tmp_path):
    steps = plan(tmp_path, CONFIGS)
    made = set()
    for step in steps:
        flags = [*step.flags, "--task_name", "toy", "--recipe", str(CONFIGS / "recipes" / "quickstart.yaml")]
        arguments = parse_arguments([*flags, "--output_dir", str(tmp_path / step.name)])
        for needed in (arguments.model.model_name_or_path, arguments.pruning.distillation_path):
            assert needed is None or needed in made
        made.add(str(tmp_path / step.name / "best"))
    assert [step.shown_as.split()[0] for step in steps if step.shown_as] == [
        "dense",
        "CoFi",
        "DataMUX",
        "PruMUX",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["quickstar"], "invalid choice"),
        (["quickstart", "--task", "SST-2"], "use scripts/run_PruMUX.sh"),
        (["quickstart", "--task", "toi"], "unknown task 'toi'"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "prumux", "--help"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "quickstart" in done.stdout
