"""The shell scripts: what they would run (PRUMUX_DRY_RUN=1), from any folder; bad arguments; the set-up of .venv."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from prumux.data.tasks import TASKS

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((PROJECT / "scripts").glob("*.sh"))


def bash(
    *command: object, cwd: Path | None = None, shell: str = "bash", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a clean environment, by default as a dry run."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [shell, *map(str, command)],
        env={**kept, "PRUMUX_DRY_RUN": "1", **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def planned(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    """The calls of run_glue.py that a dry run printed, as flag -> value ("" for switches)."""
    assert done.returncode == 0, done.stderr
    calls = []
    for line in done.stdout.splitlines():
        program, script, *words = shlex.split(line)
        assert (program, Path(script).name) in (("python", "run_glue.py"), ("python", "run_ner.py"))
        calls.append(
            {
                word: following if not following.startswith("--") else ""
                for word, following in zip(words, [*words[1:], "--"], strict=True)
                if word.startswith("--")
            }
        )
    return calls


def script(name: str) -> Path:
    return PROJECT / "scripts" / name


@pytest.mark.parametrize("path", [*SCRIPTS, PROJECT / ".ci" / "run"], ids=lambda path: path.name)
def test_syntax(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_ci_calls_the_test_script_and_nothing_else() -> None:
    text = (PROJECT / ".ci" / "run").read_text()
    assert text.strip().endswith("exec bash scripts/test.sh")
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)


def test_task_names_are_those_of_the_package() -> None:
    spellings = {
        spelling: name
        for name in TASKS
        for spelling in (name, name.lower(), name.upper(), name.replace("-", ""), name.replace("-", "_"))
    }
    calls = "; ".join(f"canonical_task {spelling}" for spelling in [*spellings, "my-own_Task"])
    done = bash("-c", f"source {shlex.quote(str(script('common.sh')))}; {calls}")
    assert done.stdout.split() == [*spellings.values(), "my-own_Task"]


PAPER = str(PROJECT / "configs/recipes/paper.yaml")
DEFAULT = str(PROJECT / "configs/recipes/prumux.yaml")


def test_pruning_of_the_papers_example() -> None:
    done = bash(script("run_PruMUX.sh"), "MNLI", TEACHER="teacher", RECIPE=PAPER)
    [call] = planned(done)
    folder = PROJECT / "out/MNLI/PruMUX/MNLI_sparsity0.60_2_4_0.9"
    assert call == {
        "--setting": "pruning",
        "--task_name": "MNLI",
        "--recipe": PAPER,
        "--num_instances": "2",
        "--target_sparsity": "0.60",
        "--model_name_or_path": "teacher",
        "--distillation_path": "teacher",
        "--distill_layer_loss_alpha": "0.9",
        "--distill_ce_loss_alpha": "0.1",
        "--layer_distill_version": "4",
        "--do_train": "",
        "--do_eval": "",
        "--output_dir": str(folder),
    }
    assert str(folder / "best") in done.stderr
    assert f"bash {script('run_PruMUX_FT.sh')} MNLI 0.60 2\n" in done.stderr


def test_finetuning_of_the_papers_example() -> None:
    done = bash(script("run_PruMUX_FT.sh"), "MNLI", TEACHER="teacher", RECIPE=PAPER)
    [call] = planned(done)
    pruned = PROJECT / "out/MNLI/PruMUX/MNLI_sparsity0.60_2_4_0.9"
    assert call["--setting"] == "finetuning"
    assert "--learning_rate" not in call, "the recipe's"
    assert call["--model_name_or_path"] == str(pruned / "best")
    assert call["--distillation_path"] == "teacher"
    assert call["--output_dir"] == str(pruned / "FT-lr3e-5")
    assert "evaluation.py MNLI 0.60 2" in done.stderr


def test_the_default_recipe_lets_the_dense_model_teach(tmp_path) -> None:
    """Multiplexed models start from the dense one and learn from it; what the command line names wins."""
    for name, instances in (("dense", 1), ("mux_2", 2)):
        (tmp_path / "SST-2" / name / "best").mkdir(parents=True)
        config = tmp_path / "SST-2" / name / "best" / "config.json"
        config.write_text(json.dumps({"num_instances": instances}, indent=2))
    dense, mux = (str(tmp_path / "SST-2" / name / "best") for name in ("dense", "mux_2"))
    here = {"OUTPUT_DIR": str(tmp_path)}
    [multiplexing] = planned(bash(script("run_glue.sh"), "-N", "2", "--task", "SST-2", **here))
    assert multiplexing["--model_name_or_path"] == multiplexing["--distillation_path"] == dense
    [own] = planned(bash(script("run_glue.sh"), "-N", "2", "--task", "SST-2", "--model_path", "m", **here))
    assert (own["--model_name_or_path"], own["--distillation_path"]) == ("m", dense)
    for flags in ({}, {"TEACHER": dense}):
        [pruning] = planned(bash(script("run_PruMUX.sh"), "SST-2", "0.6", "2", **flags, **here))
        assert (pruning["--model_name_or_path"], pruning["--distillation_path"]) == (mux, dense)
        assert "--distill_ce_loss_alpha" not in pruning, "the recipe's"
    [paper] = planned(bash(script("run_PruMUX.sh"), "SST-2", "0.6", "2", RECIPE=PAPER, **here))
    assert paper["--model_name_or_path"] == paper["--distillation_path"] == mux
    [given] = planned(bash(script("run_PruMUX.sh"), "SST-2", "0.6", "2", "0.7", "0.3", **here))
    assert (given["--distill_layer_loss_alpha"], given["--distill_ce_loss_alpha"]) == ("0.7", "0.3")
    [finetuning] = planned(bash(script("run_PruMUX_FT.sh"), "SST-2", "0.6", "2", **here))
    assert "--learning_rate" not in finetuning, "the recipe's"
    assert finetuning["--output_dir"].endswith("FT-lr1e-4")
    [paper] = planned(bash(script("run_glue.sh"), "-N", "2", "--task", "SST-2", RECIPE=PAPER, **here))
    assert "--distillation_path" not in paper


def test_the_next_command_starts_from_what_was_trained(tmp_path) -> None:
    """It names the model only where it would not be found, and as what: start, or teacher as well."""
    (tmp_path / "SST-2/dense/best").mkdir(parents=True)
    (tmp_path / "SST-2/dense/best/config.json").write_text("{}")
    here = {"OUTPUT_DIR": str(tmp_path)}
    pruning = f"bash {script('run_PruMUX.sh')} SST-2 0.60"

    def hint(*arguments: str, **environment: str) -> str:
        return bash(
            script("run_glue.sh"), "--task", "SST-2", *arguments, **here, **environment
        ).stderr.splitlines()[-1]

    assert hint("-N", "2").endswith(f"OUTPUT_DIR={tmp_path} {pruning} 2")
    assert hint("-N", "2", "--output_dir", "own").endswith(f"MODEL=own/best {pruning} 2")
    assert hint("-N", "1", "-s", "baseline", "--output_dir", "own").endswith(f"TEACHER=own/best {pruning} 1")
    assert hint("-N", "2", "--output_dir", "own", RECIPE=PAPER).endswith(f"TEACHER=own/best {pruning} 2")
    [given] = planned(bash(script("run_PruMUX.sh"), "SST-2", "0.6", "2", MODEL="own/best", **here))
    assert given["--model_name_or_path"] == "own/best"
    assert given["--distillation_path"] == str(tmp_path / "SST-2/dense/best")


def test_a_teacher_of_ones_own(tmp_path) -> None:
    done = bash(script("run_glue.sh"), "-N", "2", "--task", "SST-2", "--model_path", "m", TEACHER="t")
    assert planned(done)[0]["--distillation_path"] == "t"
    assert " TEACHER=t " in f" {done.stderr.splitlines()[-1]}", "the next phase learns from it as well"
    [alone] = planned(bash(script("run_glue.sh"), "-N", "2", "--task", "SST-2", TEACHER="t"))
    assert alone["--model_name_or_path"] == alone["--distillation_path"] == "t"
    dense = tmp_path / "SST-2/dense/best"
    dense.mkdir(parents=True)
    (dense / "config.json").write_text("{}")
    [larger] = planned(
        bash(script("run_glue.sh"), "-N", "2", "--task", "SST-2", TEACHER="t", OUTPUT_DIR=str(tmp_path))
    )
    assert (larger["--model_name_or_path"], larger["--distillation_path"]) == (str(dense), "t")


def test_the_folder_has_the_name_of_the_last_of_several_sparsities() -> None:
    for several in ("--target_sparsity 0.6 0.90", "--seed 1 --target_sparsity=.9 --bf16"):
        [pruning] = planned(bash(script("run_PruMUX.sh"), "MNLI", "0.9", "2", TEACHER="t", EXTRA=several))
        assert "sparsity0.90_2" in pruning["--output_dir"]
        wrong = bash(script("run_PruMUX.sh"), "MNLI", "0.60", "2", TEACHER="t", EXTRA=several)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr.startswith("error: EXTRA ends at --target_sparsity"), wrong.stderr


def test_every_argument_is_positional() -> None:
    arguments = ("sst2", ".9", "5", "0.7", "0.3", "6")
    [pruning] = planned(bash(script("run_PruMUX.sh"), *arguments, TEACHER="t", OUTPUT_DIR="o/"))
    [finetuning] = planned(bash(script("run_PruMUX_FT.sh"), *arguments, "1e-5", TEACHER="t", OUTPUT_DIR="o"))
    assert pruning["--output_dir"] == "o/SST-2/PruMUX/SST-2_sparsity0.90_5_6_0.7"
    assert finetuning["--output_dir"] == "o/SST-2/PruMUX/SST-2_sparsity0.90_5_6_0.7/FT-lr1e-5"
    for call in (pruning, finetuning):
        assert call["--distill_layer_loss_alpha"] == "0.7"
        assert call["--distill_ce_loss_alpha"] == "0.3"
        assert call["--layer_distill_version"] == "6"
    assert finetuning["--learning_rate"] == "1e-5"


def test_without_arguments_the_embedded_task_runs_end_to_end(tmp_path: Path) -> None:
    done = bash(script("run_PruMUX_FT.sh"), OUTPUT_DIR=str(tmp_path), EPOCHS="3")
    assert done.stderr.splitlines()[-1].endswith("evaluation.py toy 0.60 2 --max_seq_length 32")
    calls = planned(done)
    assert [call["--setting"] for call in calls] == ["baseline", "finetuning", "pruning", "finetuning"]
    assert {call["--task_name"] for call in calls} == {"toy"}
    # each phase starts where the one before ends
    outputs = [call["--output_dir"] for call in calls]
    assert [call.get("--model_name_or_path") for call in calls[1:]] == [
        f"{output}/best" for output in outputs[:-1]
    ]
    assert calls[0]["--config_name"] == str(PROJECT / "configs/models/toy.json")
    assert [call.get("--num_train_epochs") for call in calls] == [None, None, None, "3"]
    (tmp_path / "toy/mux_2/best").mkdir(parents=True)
    (tmp_path / "toy/mux_2/best/config.json").touch()
    [pruning] = planned(bash(script("run_PruMUX.sh"), OUTPUT_DIR=str(tmp_path)))
    assert pruning["--distillation_path"] == str(tmp_path / "toy/mux_2/best")


def test_the_embedded_task_trains_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "toy/dense/best").mkdir(parents=True)
    (tmp_path / "toy/dense/best/config.json").touch()
    calls = planned(bash(script("run_PruMUX_FT.sh"), OUTPUT_DIR=str(tmp_path)))
    assert [call["--setting"] for call in calls] == ["baseline", "finetuning", "pruning", "finetuning"]


def test_the_embedded_task_without_multiplexing(tmp_path: Path) -> None:
    baseline, pruning = planned(bash(script("run_PruMUX.sh"), "toy", "0.6", "1", OUTPUT_DIR=str(tmp_path)))
    assert baseline["--setting"] == "baseline"
    assert (
        pruning["--distillation_path"]
        == str(tmp_path / "toy/dense/best")
        == baseline["--output_dir"] + "/best"
    )


def test_the_teacher_is_ours_before_the_authors(tmp_path: Path) -> None:
    [call] = planned(bash(script("run_PruMUX.sh"), "SST2", "0.6", "5", OUTPUT_DIR=str(tmp_path)))
    assert call["--distillation_path"] == "princeton-nlp/muxbert_base_sst2_gaussian_hadamard_index_pos_5"
    ours = tmp_path / "SST-2/mux_5/best"
    ours.mkdir(parents=True)
    (ours / "config.json").touch()
    [call] = planned(bash(script("run_PruMUX.sh"), "SST2", "0.6", "5", OUTPUT_DIR=str(tmp_path), MODEL="m"))
    assert call["--distillation_path"] == str(ours)
    assert call["--model_name_or_path"] == "m"


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_any_working_directory(tmp_path: Path, shell: str) -> None:
    """The project is found, and the user's relative paths stay relative to the user."""
    environment = {"TEACHER": "mine", "DATA_DIR": "data dir", "OUTPUT_DIR": "results"}
    elsewhere = bash(script("run_PruMUX.sh"), "RTE", cwd=tmp_path, shell=shell, **environment)
    inside = bash("run_PruMUX.sh", "RTE", cwd=PROJECT / "scripts", shell=shell, **environment)
    [call] = planned(elsewhere)
    assert planned(inside) == [call]
    assert call["--data_dir"] == "data dir"
    assert call["--output_dir"].startswith("results/RTE/")


def test_environment_overrides() -> None:
    [call] = planned(
        bash(
            *(script("run_PruMUX.sh"), "mine", "0.5", "2"),
            TEACHER="t",
            TRAIN_FILE="a.csv",
            VALIDATION_FILE="b.csv",
            EPOCHS="2",
            BATCH_SIZE="8",
            SEED="3",
            RECIPE="r.yaml",
            EXTRA="--bf16 --max_steps 5",
        )
    )
    assert call["--train_file"] == "a.csv"
    assert call["--validation_file"] == "b.csv"
    assert call["--num_train_epochs"] == "2"
    assert call["--per_device_train_batch_size"] == "16"  # rows: groups times N
    assert call["--seed"] == "3"
    assert call["--recipe"] == "r.yaml"
    assert call["--bf16"] == ""
    assert call["--max_steps"] == "5"


def test_run_glue_as_in_datamux() -> None:
    done = bash(
        *(script("run_glue.sh"), "-N", "2", "-d", "index", "-m", "gaussian_hadamard", "-s", "finetuning"),
        *(
            "--config_name",
            "c.json",
            "--lr",
            "5e-5",
            "--task",
            "mnli",
            "--model_path",
            "m",
            "--batch_size",
            "24",
        ),
        *("--learn_muxing", "--do_train", "--", "--bf16"),
        shell="sh",
    )
    [call] = planned(done)
    assert call == {
        "--setting": "finetuning",
        "--task_name": "MNLI",
        "--recipe": str(PROJECT / "configs/recipes/prumux.yaml"),
        "--num_instances": "2",
        "--demuxing_variant": "index",
        "--muxing_variant": "gaussian_hadamard",
        "--config_name": "c.json",
        "--learning_rate": "5e-5",
        "--model_name_or_path": "m",
        "--per_device_train_batch_size": "48",
        "--learn_muxing": "",
        "--do_train": "",
        "--output_dir": str(PROJECT / "out/MNLI/mux_2"),
        "--bf16": "",
    }
    assert "run_PruMUX.sh MNLI 0.60 2" in done.stderr


@pytest.mark.parametrize(
    ("setting", "instances", "folder"),
    [
        ("baseline", "1", "dense"),
        ("finetuning", "1", "dense"),
        ("finetuning", "5", "mux_5"),
        ("retrieval_pretraining", "5", "retrieval_5"),
        ("mlm_pretraining", "10", "mlm_10"),
    ],
)
def test_run_glue_folders(setting: str, instances: str, folder: str) -> None:
    arguments = ("-N", instances, "-s", setting, "--task", "stsb")
    [call] = planned(bash(script("run_glue.sh"), *arguments))
    assert call["--output_dir"] == str(PROJECT / "out/STS-B" / folder)
    [call] = planned(bash(script("run_glue.sh"), *arguments, "--output_dir", "mine"))
    assert call["--output_dir"] == "mine"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("run_PruMUX.sh", "MNLI", "2", "0.60"), "N must be a whole number from 1 on, got '0.60'"),
        (("run_PruMUX.sh", "MNLI", "0.6", "0"), "N must be a whole number from 1 on, got '0'"),
        (
            ("run_PruMUX.sh", "toy", "60", "2"),
            "SPARSITY is the share of weights to remove, 0 to 0.99 (0.60 removes 60 %), got '60'",
        ),
        (("run_PruMUX_FT.sh", "MNLI", "1", "2"), "SPARSITY is the share of weights to remove, 0 to 0.99"),
        (("run_PruMUX.sh", "MNLI", "60%"), "SPARSITY must be a number from 0 to 0.99, got '60%'"),
        (("run_PruMUX.sh", *"1234567"), "at most 6 arguments, got 7"),
        (("run_PruMUX_FT.sh", *"12345678"), "at most 7 arguments, got 8"),
        (("run_glue.sh", "--bf16"), "unknown option '--bf16'"),
        (("run_glue.sh", "-N"), "-N needs a value"),
        (("run_glue.sh", "-N", "two"), "-N must be a whole number from 1 on, got 'two'"),
        (("run_glue.sh", "-s", "pretraining"), "unknown setting 'pretraining': choose baseline"),
        (("run_glue.sh", "-s", "baseline", "-N", "2"), "the baseline has no multiplexing"),
        (("run_glue.sh", "--batch_size", "0"), "--batch_size must be a whole number from 1 on, got '0'"),
    ],
)
def test_bad_arguments(command: tuple[str, ...], message: str) -> None:
    done = bash(script(command[0]), *command[1:])
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")


BASE = "--config_name configs/ablations/base_model/roberta.json"
INDEX = f"-N 2 -d index -m gaussian_hadamard {BASE} --lr 5e-5 --do_train --do_eval"


@pytest.mark.parametrize(
    ("command", "task", "setting", "folder"),
    [
        (
            f"run_glue.sh -s retrieval_pretraining {INDEX}",
            "wikitext",
            "retrieval_pretraining",
            "wikitext/retrieval_2",
        ),
        (f"run_glue.sh -s finetuning {INDEX} --task mnli --model_path m", "MNLI", "finetuning", "MNLI/mux_2"),
        (f"run_ner.sh -s finetuning {INDEX} --task ner --model_path m", "NER", "finetuning", "NER/mux_2"),
        (f"run_glue.sh -N 1 -s baseline {BASE} --lr 2e-5 --task mnli", "MNLI", "baseline", "MNLI/dense"),
    ],
)
def test_the_commands_that_datamux_prints(tmp_path, command, task, setting, folder):
    """From any folder, with the architecture's path as it is printed."""
    name, *flags = command.split()
    [call] = planned(bash(script(name), *flags, shell="sh", cwd=tmp_path))
    assert call["--config_name"] == str(PROJECT / "configs/ablations/base_model/roberta.json")
    assert (call["--task_name"], call["--setting"]) == (task, setting)
    assert call["--output_dir"] == str(PROJECT / "out" / folder)
    assert {"--do_train", "--do_eval"} <= set(call)


def test_plain_text_of_ones_own_for_the_warm_up(tmp_path):
    done = bash(
        script("run_glue.sh"),
        "-s",
        "mlm_pretraining",
        "--model_path",
        "m",
        TRAIN_FILE="t.txt",
        OUTPUT_DIR="out",
    )
    [call] = planned(done)
    assert (call["--task_name"], call["--train_file"], call["--output_dir"]) == (
        "corpus",
        "t.txt",
        "out/corpus/mlm_2",
    )
    assert "--task TASK --model_path out/corpus/mlm_2/best" in done.stderr
    assert "TRAIN_FILE" not in done.stderr


@pytest.mark.parametrize("name", ["run_glue.sh", "run_ner.sh", "run_PruMUX.sh", "run_PruMUX_FT.sh"])
def test_help(name: str) -> None:
    done = bash(script(name), "--help")
    assert done.returncode == 0
    assert name in done.stdout
    assert "shellcheck" not in done.stdout


def test_quickstart_and_test_pass_their_arguments_on() -> None:
    assert bash(script("quickstart.sh"), "--seed", "1").stdout == "python -m prumux quickstart --seed 1\n"
    *_, last = bash(script("test.sh"), "-m", "not slow").stdout.splitlines()
    assert shlex.split(last)[:3] == ["python", "-m", "pytest"]
    assert shlex.split(last)[-2:] == ["-m", "not slow"]


# ---- set-up, with an interpreter that only notes what it is asked -------------------------------------------------

FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$NOTES"
case "$*" in
  --version) echo "Python 3.${MINOR:-12}.0" ;;
  "-c import sys"*) [ "${MINOR:-12}" -ge 10 ] ;;
  "-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  "-I -"*) [ -n "${HAS_PROJECT:-}" ] ;;
  "-m pip install"*) [ -z "${NO_NETWORK:-}" ] ;;
esac
"""


class Project:
    """A copy of the scripts with a stand-in for Python."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a project"
        shutil.copytree(PROJECT / "scripts", self.root / "scripts")
        shutil.copy(PROJECT / "pyproject.toml", self.root)
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.bin / "python3").write_text(FAKE_PYTHON)
        (self.bin / "python3").chmod(0o755)
        self.notes = root / "notes"

    def run(self, *command: str, **env: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run a script; also returns what Python was asked to do."""
        self.notes.write_text("")
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        env = {"PRUMUX_DRY_RUN": "", "PATH": path, "NOTES": str(self.notes), **env}
        done = bash(self.root / "scripts" / command[0], *command[1:], **env)
        return done, self.notes.read_text().splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def installs(notes: list[str]) -> list[str]:
    return [note.split(" -e ")[1] for note in notes if note.startswith("-m pip install")]


def test_set_up_installs_once_and_after_a_change_of_the_dependencies(project: Project) -> None:
    first, notes = project.run("quickstart.sh")
    assert first.returncode == 0, first.stderr
    assert installs(notes) == [str(project.root)]
    assert notes[-1] == "-m prumux quickstart"
    again, notes = project.run("quickstart.sh")
    assert notes == ["-m prumux quickstart"]
    assert again.stderr == ""
    _, notes = project.run("test.sh")
    assert installs(notes) == [f"{project.root}[test]"]
    with (project.root / "pyproject.toml").open("a") as file:
        file.write("\n")
    _, notes = project.run("test.sh")
    assert installs(notes) == [f"{project.root}[test]"]
    _, notes = project.run("quickstart.sh")  # the test extra holds everything
    assert installs(notes) == []


def test_a_failed_install_is_repeated(project: Project) -> None:
    failed, _ = project.run("quickstart.sh", NO_NETWORK="1")
    assert failed.returncode == 2
    assert "error: the install failed" in failed.stderr
    assert "Traceback" not in failed.stderr
    done, notes = project.run("quickstart.sh")
    assert done.returncode == 0
    assert len(installs(notes)) == 1


def test_an_old_or_missing_python_is_named(project: Project) -> None:
    old, _ = project.run("quickstart.sh", MINOR="9")
    assert old.returncode == 2
    assert "error: 'python3' is Python 3.9.0, prumux needs Python 3.10 or newer" in old.stderr
    missing, _ = project.run("quickstart.sh", PYTHON="no-such-python")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no 'no-such-python' found")
    assert not (project.root / ".venv").exists()


@pytest.mark.parametrize("variable", ["PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_environment_with_the_project_is_used_as_it_is(project: Project, variable: str) -> None:
    active = project.root.parent / "active"
    (active / "bin").mkdir(parents=True)
    shutil.copy(project.bin / "python3", active / "bin" / "python")
    value = str(active / "bin" / "python" if variable == "PYTHON" else active)
    done, notes = project.run("quickstart.sh", HAS_PROJECT="1", **{variable: value})
    assert done.returncode == 0, done.stderr
    assert installs(notes) == []
    assert not (project.root / ".venv").exists()
    _, notes = project.run("quickstart.sh", **{variable: value})
    assert len(installs(notes)) == 1


def test_a_missing_teacher_and_a_missing_pruned_model_name_the_command(project: Project) -> None:
    done, notes = project.run("run_PruMUX.sh", "RTE")
    assert done.returncode == 2
    assert "no finetuned model to start from in" in done.stderr.splitlines()[-1]
    assert "run_glue.sh -N 2 -s finetuning --task RTE" in done.stderr
    assert not any("run_glue.py" in note for note in notes)
    done, notes = project.run("run_PruMUX_FT.sh", "RTE", TEACHER="t")
    assert done.returncode == 2
    assert "no finished pruning run in" in done.stderr
    assert "run_PruMUX.sh RTE 0.60 2)" in done.stderr
    assert not any("run_glue.py" in note for note in notes)


def test_a_forgotten_dense_model_names_the_command(project: Project) -> None:
    done, notes = project.run("run_glue.sh", "-N", "2", "--task", "RTE")
    assert done.returncode == 2
    assert "no model to start from" in done.stderr.splitlines()[-1]
    assert "run_glue.sh -N 1 -s baseline --task RTE" in done.stderr
    assert not any("run_glue.py" in note for note in notes)
    for elsewhere in ({"EXTRA": "--model_path m"}, {"TEACHER": "t"}, {"CONFIG": "c.json"}):
        done, notes = project.run("run_glue.sh", "-N", "2", "--task", "RTE", RECIPE=DEFAULT, **elsewhere)
        assert done.returncode == 0, done.stderr
        assert any("run_glue.py" in note for note in notes)


def test_a_failing_run_ends_the_script_with_its_exit_code(project: Project) -> None:
    project.run("quickstart.sh")
    python = project.root / ".venv/bin/python"
    python.write_text(python.read_text() + 'case "$*" in *run_glue.py*) exit 2 ;; esac\n')
    done, _ = project.run("run_PruMUX.sh", "RTE", TEACHER="t")
    assert done.returncode == 2
    assert "Next" not in done.stderr


@pytest.mark.parametrize(("given", "asked"), [("0.6", "0.60"), (".7", "0.70"), ("0.625", "0.625")])
def test_the_sparsity_is_not_rounded(tmp_path: Path, given: str, asked: str) -> None:
    *_, pruning = planned(bash(script("run_PruMUX.sh"), "toy", given, "1", OUTPUT_DIR=str(tmp_path)))
    assert pruning["--target_sparsity"] == asked
    assert f"toy_sparsity{asked}_1_" in pruning["--output_dir"]
