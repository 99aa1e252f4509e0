"""`prumux grid --slurm`: the plan as array scripts for Slurm."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from prumux.grid.plan import Job
from prumux.reports.provenance import atomic_file


def write_slurm(jobs: Sequence[Job], grid_file: str | Path, output_dir: str | Path) -> Path:
    """Array scripts, one per level of the jobs' dependencies, and ``submit.sh`` that queues them one after the other.

    An array task runs ``prumux grid GRID --only NAME``; a level starts when the one before has ended, and a job whose
    needs failed says so.
    """
    folder = Path(output_dir).absolute() / "slurm"
    levels = _levels(jobs)
    submit = [
        "#!/usr/bin/env bash",
        "# Queues the levels of the grid one after the other.",
        "set -eu",
        "previous=",
    ]
    for number, level in enumerate(levels):
        names, script = folder / f"level_{number}.txt", folder / f"level_{number}.sh"
        _write(names, "\n".join(job.name for job in level) + "\n")
        _write(script, "\n".join([
            "#!/usr/bin/env bash", f"#SBATCH --job-name=prumux-{number}", f"#SBATCH --array=0-{len(level) - 1}",
            "#SBATCH --gpus=1", f"#SBATCH --output={folder}/%x.%a.log", "set -eu",
            f"cd {shlex.quote(str(Path.cwd()))}",
            f'name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(names))})',
            f"exec {shlex.quote(sys.executable)} -m prumux grid {shlex.quote(str(grid_file))} --only \"$name\"",
        ]) + "\n")  # fmt: skip
        submit.append(
            f"previous=$(sbatch --parsable ${{previous:+--dependency=afterany:$previous}} {shlex.quote(str(script))})"
        )
    _write(folder / "submit.sh", "\n".join([*submit, 'echo "last array: $previous"']) + "\n")
    return folder / "submit.sh"


def _levels(jobs: Sequence[Job]) -> list[list[Job]]:
    level: dict[str, int] = {}
    for job in jobs:
        level[job.name] = 1 + max((level[need] for need in job.needs), default=-1)
    return [[job for job in jobs if level[job.name] == i] for i in range(max(level.values(), default=-1) + 1)]


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
