"""Jobs of a grid: done ones are skipped, a failure stops only what builds on it; the toy grid as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prumux.__main__ import main
from prumux.auto.points import read_points
from prumux.errors import UserError
from prumux.grid import run
from prumux.grid.config import PROJECT
from prumux.grid.plan import Job, pick
from prumux.grid.run import run_jobs
from prumux.training.folder import computing_flags
from prumux.training.parsing import parse_arguments


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_failure_stops_only_what_builds_on_it(jobs, tmp_path, at_once):
    outcome = run_jobs(jobs, tmp_path / "out", at_once)
    assert sorted(outcome.finished) == ["a", "b"]
    assert list(outcome.failed) == ["bad"]
    assert sorted(outcome.blocked) == ["after", "last"]
    again = run_jobs(jobs, tmp_path / "out", at_once)
    assert sorted(again.skipped) == ["a", "b"]
    assert not again.finished


def test_one_job_alone(jobs, tmp_path):
    with pytest.raises(UserError, match="b needs a, which is not done"):
        pick(jobs, "b")
    with pytest.raises(UserError, match="no job 'c'"):
        pick(jobs, "c")
    run_jobs(pick(jobs, "a"), tmp_path / "out")
    assert [job.name for job in pick(jobs, "b")] == ["a", "b"]
    with pytest.raises(UserError, match="--jobs is 0"):
        run_jobs(jobs, tmp_path / "out", 0)


@pytest.mark.parametrize(
    ("visible", "names"), [(None, ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_the_gpus_are_those_that_the_grid_was_given(monkeypatch, visible, names):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert run._gpus() == names


@pytest.mark.slow
def test_the_toy_grid_then_auto_and_report(tmp_path):
    """What the README shows, in its smallest form: grid, Auto-PruMUX on its results, report."""
    grid = yaml.safe_load((PROJECT / "configs" / "grids" / "toy.yaml").read_text())
    grid |= {"layers": [], "output_dir": str(tmp_path / "out"),
             "flags": {"max_train_samples": 64, "disable_tqdm": True},
             "evaluation": grid["evaluation"] | {"repeats": 1, "num_groupings": 1}}  # fmt: skip
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(grid))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def prumux(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prumux", *flags],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    planned = prumux("grid", str(file), "--dry_run")
    assert "hours one job after the other" in planned.stdout, planned.stderr
    first = prumux("grid", str(file))
    assert first.returncode == 0, first.stderr
    assert "0 failed" in first.stdout
    again = prumux("grid", str(file))
    assert again.stdout.startswith("0 jobs run")
    store = tmp_path / "out" / "runs.jsonl"
    assert {point.key for point in read_points(store)} == {(n, s) for n in (1, 2) for s in (0.0, 0.4, 0.6)}
    main(["auto", "predict", str(store), "--loss_budget", "50", "--json", str(tmp_path / "auto.json")])
    assert json.loads((tmp_path / "auto.json").read_text())["predictions"]
    main(["report", str(store), "--html", str(tmp_path / "page.html")])
    assert Path(tmp_path / "page.html").is_file()


def evaluation(folder: Path, made: str | None = None) -> Job:
    argv = ("toy", "--json", str(folder / "e.json"))
    job = Job("evaluate", "evaluation.py", argv, folder / "e.json", (), "toy", 1, (folder / "run.json",))
    if made is not None:
        (folder / "e.json").write_text(json.dumps({"provenance": {"command": made}}))
    return job


def test_an_evaluation_is_done_by_the_same_command_and_after_its_model(tmp_path):
    assert not evaluation(tmp_path).done
    command = evaluation(tmp_path).command()
    assert evaluation(tmp_path, command).done
    assert not evaluation(tmp_path, command + " --num_groupings 5").done
    assert evaluation(tmp_path, command.replace("evaluation.py", "project/evaluation.py")).done, (
        "from above the project"
    )
    job = evaluation(tmp_path, command)
    (tmp_path / "run.json").write_text("{}")
    os.utime(tmp_path / "run.json", (2e9, 2e9))  # trained again
    assert not job.done
    (tmp_path / "e.json").write_text("half a li")
    assert not job.done


def training(folder: Path, *flags: str) -> Job:
    argv = ("--setting", "baseline", "--task_name", "toy", *flags, "--output_dir", str(folder / "dense"))
    return Job("toy/dense", "run_glue.py", argv, folder / "dense" / "run.json", (), "toy", 1)


def test_a_finished_run_with_other_arguments_is_not_this_grids(tmp_path):
    job = training(tmp_path, "--seed", "57")
    job.result.parent.mkdir()
    wanted = computing_flags(job.argv, parse_arguments(list(job.argv)).recipe)
    job.result.write_text(json.dumps({"arguments": wanted}))
    assert run_jobs([job], tmp_path).skipped == ["toy/dense"]
    with pytest.raises(UserError, match=r"toy/dense: .*holds a run with other arguments.*remove that folder"):
        run_jobs([training(tmp_path, "--seed", "58")], tmp_path)


def test_wrong_flags_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"toy/dense: .*num_train_epoch"):
        run_jobs([training(tmp_path, "--num_train_epoch_s", "2")], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: choose another folder"):
        run_jobs([], tmp_path / "file")


@pytest.mark.parametrize("flag", ["--dry_run", "--slurm"])
def test_wrong_flags_are_refused_without_running(tmp_path, capsys, flag):
    grid = {
        "tasks": {"toy": {"flags": {"learning_ratee": 1}}}, "config": "configs/models/toy.json", "num_instances": [1],
        "sparsity": [0], "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(SystemExit) as stopped:
        main(["grid", str(tmp_path / "grid.yaml"), flag, "--no_estimate"])
    assert stopped.value.code == 2
    assert "learning_ratee" in capsys.readouterr().err
    assert not (tmp_path / "out" / "slurm").exists()


def test_without_gpus_evaluations_come_last_and_alone(tmp_path, monkeypatch):
    """Each stub writes when it began and ended; the evaluations overlap with nothing."""
    code = "import sys, time; a = time.time(); time.sleep(.3); open(sys.argv[1], 'w').write(f'{a} {time.time()}')"
    for script in ("run_glue.py", "evaluation.py"):
        (tmp_path / script).write_text(code)
    monkeypatch.setattr(run, "PROJECT", tmp_path)
    monkeypatch.setattr(run, "_gpus", list)
    monkeypatch.setattr(run, "check_arguments", lambda _: None)
    monkeypatch.setattr(Job, "done", property(lambda job: job.result.is_file()))
    names = ["train_1", "evaluate_1", "train_2", "evaluate_2"]
    jobs = [
        Job(name, "run_glue.py" if "train" in name else "evaluation.py", (str(tmp_path / name),), tmp_path / name,
            ("train_" + name[-1],) if "evaluate" in name else (), "toy", 1)
        for name in names
    ]  # fmt: skip
    assert len(run_jobs(jobs, tmp_path / "out", 2).finished) == 4
    times = {name: tuple(map(float, (tmp_path / name).read_text().split())) for name in names}
    first, second = sorted(times[name] for name in names if "evaluate" in name)
    assert max(times["train_1"][1], times["train_2"][1]) <= first[0]
    assert first[1] <= second[0]


def test_a_terminated_grid_ends_its_jobs_and_one_job_runs_once(tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(
        "import os, pathlib, sys, time\n"
        "with open(sys.argv[1] + '.pid', 'a') as file: file.write(f'{os.getpid()} ')\n"
        "time.sleep(60)"
    )
    script = (
        "import pathlib, sys; from prumux.grid import run; from prumux.grid.plan import Job\n"
        f"run.PROJECT = pathlib.Path({str(tmp_path)!r})\n"
        f"path = {str(tmp_path / 'result')!r}\n"
        f"job = Job('a', 'job.py', (path,), pathlib.Path(path), (), 'toy', 1)\n"
        f"run.run_jobs([job], {str(tmp_path / 'out')!r})"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    pids = tmp_path / "result.pid"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE)

    grid = start()
    deadline = time.monotonic() + 60
    while not pids.exists() or not pids.read_text().strip():
        assert grid.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = start()
    assert b"a is running already" in second.communicate(timeout=60)[1]
    grid.send_signal(signal.SIGTERM)
    grid.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)
