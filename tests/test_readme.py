"""The README keeps its word: its commands exist and parse, its Python runs, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]

# Shell functions in place of the programs: they note the call instead of making it.
NOTING = """
python() { echo; printf '%q ' python "$@"; echo; }
prumux() { python -m prumux "$@"; }
source() { [ -n "$1" ]; }
"""


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def called(shell: str, folder: Path) -> list[list[str]]:
    """The Python calls that shell text ends in, its scripts being dry runs."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PRUMUX_DRY_RUN": "1",
        "OUTPUT_DIR": str(folder / "out"),
    }
    done = subprocess.run(
        ["bash", "-euc", NOTING + shell],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("python")]


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands_of_the_table() -> list[str]:
    table = README.split("## Commands", 1)[1].split("## ", 1)[0]
    return re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """All calls of the README's shell blocks, which share one shell as they do for a reader."""
    return called("\n".join(blocks("bash")), tmp_path_factory.mktemp("readme"))


def test_the_shell_blocks_reach_the_entry_points(calls: list[list[str]]) -> None:
    assert {Path(word).name for call in calls for word in call[1:4]} >= {
        "run_glue.py",
        "evaluation.py",
        "quickstart",
    }


def test_flags_of_run_glue_exist(calls: list[list[str]]) -> None:
    known = set(re.findall(r"--\w+", help_of("run_glue.py")))
    given = {
        word for call in calls if call[1].endswith("run_glue.py") for word in call if word.startswith("--")
    }
    assert given
    assert given <= known


def test_arguments_of_evaluation_parse(calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("evaluation_entry", PROJECT / "evaluation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    evaluations = [call for call in calls if call[1] == "evaluation.py"]
    assert evaluations
    for call in evaluations:
        monkeypatch.setattr(sys, "argv", call[1:])
        assert module.parse().task


def test_subcommands_of_prumux_exist(calls: list[list[str]]) -> None:
    names = {call[3] for call in calls if call[1:3] == ["-m", "prumux"] and len(call) > 3}
    assert "quickstart" in names
    for name in names:
        help_of("-m", "prumux", name)
    help_of("-m", "prumux")


@pytest.mark.parametrize("command", commands_of_the_table())
def test_commands_of_the_table_exist(command: str, tmp_path: Path) -> None:
    words = command.split()
    if words[0] == "prumux":
        assert 'prumux = "prumux.__main__:main"' in (PROJECT / "pyproject.toml").read_text()
        return
    assert (PROJECT / words[1]).is_file()
    if words[0] == "bash":
        called(command, tmp_path)
    else:
        help_of(words[1])


def test_the_python_example_runs(tmp_path: Path) -> None:
    example = "\n".join(blocks("python"))
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    checked = example + "\nassert logits.shape == (2, 2)\n"
    done = subprocess.run(
        [sys.executable, "-c", checked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small/model.safetensors").is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_shell_blocks_of_all_documents_are_shell(path: Path) -> None:
    for block in blocks("bash", path.read_text(encoding="utf-8")):
        assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0


def test_named_environment_variables_are_read() -> None:
    scripts = "".join(path.read_text() for path in (PROJECT / "scripts").glob("*.sh"))
    table = README.split("| Environment variable |", 1)[1].split("\n\n", 1)[0]
    names = set(re.findall(r"`([A-Z_]{4,})`", table))
    assert len(names) >= 11
    for name in names:
        assert f"${{{name}:-" in scripts, name
