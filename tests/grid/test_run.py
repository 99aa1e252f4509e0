"""Jobs of a grid: done ones are skipped, a failure stops only what builds on it; the toy grid as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prumux.__main__ import main
from prumux.auto.points import read_points
from prumux.errors import UserError
from prumux.grid import run
from prumux.grid.plan import PROJECT, Job
from prumux.grid.run import describe, pick, run_jobs, write_slurm

SCRIPT = (
    "import pathlib, sys; sys.exit(1) if sys.argv[1] == 'fail' else pathlib.Path(sys.argv[1]).write_text('x')"
)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(SCRIPT)
    monkeypatch.setattr(run, "PROJECT", tmp_path)

    def job(name: str, *needs: str, fails: bool = False) -> Job:
        result = tmp_path / "out" / name
        return Job(name, "job.py", ("fail" if fails else str(result),), result, needs, "toy", 1)

    return [
        job("a"),
        job("b", "a"),
        job("bad", "a", fails=True),
        job("after", "bad"),
        job("last", "after", "b"),
    ]


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


def test_slurm_arrays_by_level(jobs, tmp_path):
    submit = write_slurm(jobs, "grid.yaml", tmp_path / "out")
    names = [(submit.parent / f"level_{i}.txt").read_text().split() for i in range(4)]
    assert names == [["a"], ["b", "bad"], ["after"], ["last"]]
    assert "--array=0-1" in (submit.parent / "level_1.sh").read_text()
    assert submit.read_text().count("sbatch") == 4
    subprocess.run(["bash", "-n", str(submit)], check=True)


def test_the_plan_for_people(jobs):
    assert "bad (2.0 min)" in describe(jobs, {"bad": 120})
    assert "5 jobs, 0 done" in describe(jobs)


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
