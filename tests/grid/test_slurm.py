"""Array scripts for Slurm: a level of jobs after the other."""

from __future__ import annotations

import subprocess

from prumux.grid.slurm import write_slurm


def test_slurm_arrays_by_level(jobs, tmp_path):
    submit = write_slurm(jobs, "grid.yaml", tmp_path / "out")
    names = [(submit.parent / f"level_{i}.txt").read_text().split() for i in range(4)]
    assert names == [["a"], ["b", "bad"], ["after"], ["last"]]
    assert "--array=0-1" in (submit.parent / "level_1.sh").read_text()
    assert submit.read_text().count("sbatch") == 4
    subprocess.run(["bash", "-n", str(submit)], check=True)
