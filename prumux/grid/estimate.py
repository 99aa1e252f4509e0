"""What `prumux grid --dry_run` prints: the plan, and the time it takes by a few timed steps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prumux.grid.config import GridConfig, project_file
from prumux.grid.plan import Job

if TYPE_CHECKING:
    from prumux.training.arguments import Arguments

TIMED_STEPS = 6
PRUNING_COST = 1.5  # a step with a teacher, or with masks, beside a plain one of the same model


def estimate(jobs: Sequence[Job], grid: GridConfig) -> dict[str, float]:
    """Seconds by the name of each training job that is not done, from a few timed steps per task and N.

    The steps are timed on weights in the grid's own shape, on this machine; evaluations are not counted.
    """
    from prumux.training.inputs import load_data
    from prumux.training.parsing import parse_arguments
    from prumux.training.structure import narrow_flags

    rows: dict[str, int] = {}
    per_row: dict[tuple[str, int], float] = {}
    seconds = {}
    for job in jobs:
        if not job.trains or job.done:
            continue
        arguments = parse_arguments(job.argv)
        if job.task not in rows:
            rows[job.task] = len(load_data(arguments).train or [])
        key = job.task, job.num_instances
        if key not in per_row:
            per_row[key] = _seconds_per_row(job, grid)
        seen = _rows_seen(arguments, rows[job.task])
        if narrow := narrow_flags(job.argv, arguments):  # a row costs it at most what it costs the wide model
            seen += _rows_seen(parse_arguments(narrow), rows[job.task])
        taught = arguments.pruning.distillation_path is not None or arguments.pruning.setting == "pruning"
        seconds[job.name] = seen * per_row[key] * (PRUNING_COST if taught else 1)
    return seconds


def _rows_seen(arguments: Arguments, rows: int) -> int:
    """How many rows a run over a file of ``rows`` learns from, repetitions counted."""
    training = arguments.training
    batch = training.per_device_train_batch_size
    epoch = math.ceil(rows / batch / training.gradient_accumulation_steps)
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * epoch)
    return steps * batch


def _seconds_per_row(job: Job, grid: GridConfig) -> float:
    """Time of a few finetuning steps of the unpruned model, by row."""
    from prumux.training.parsing import parse_arguments
    from prumux.training.phases import build_trainer
    from prumux.training.trainer import StepEnds

    start = (
        ["--config_name", str(project_file(grid.config))]
        if grid.config
        else ["--model_name_or_path", str(grid.model)]
    )
    skipped = {"--model_name_or_path", "--distillation_path", "--config_name", "--setting", "--output_dir",
               "--target_sparsity", "--num_hidden_layers", "--distill_states"}  # fmt: skip
    kept: list[str] = []
    keep = True
    for part in job.argv:
        if part.startswith("--"):
            keep = part not in skipped
        if keep:
            kept.append(part)
    with tempfile.TemporaryDirectory() as folder:
        arguments = parse_arguments([
            *kept, *start, "--output_dir", folder, "--setting", "finetuning", "--max_steps", str(TIMED_STEPS),
            "--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "True",
            "--separate_instances", "False", "--narrow_first", "False",  # how weights start costs no step anything
        ])  # fmt: skip
        trainer = build_trainer(arguments)
        clock = StepEnds()
        trainer.add_callback(clock)
        trainer.train()
        first, *_, last = clock.times  # the first step also pays for what happens once
        return (last - first) / (len(clock.times) - 1) / arguments.training.per_device_train_batch_size


def describe(jobs: Sequence[Job], seconds: dict[str, float] | None = None) -> str:
    """The plan for people: a line per job, done or its command, with the estimate."""
    lines = []
    for job in jobs:
        state = (
            "done"
            if job.done
            else f"{seconds[job.name] / 60:.1f} min"
            if seconds and job.name in seconds
            else ""
        )
        lines.append(f"{job.name}{f' ({state})' if state else ''}\n    {job.command()}")
    left = [job for job in jobs if not job.done]
    lines.append(f"\n{len(jobs)} jobs, {len(jobs) - len(left)} done")
    if seconds is not None:
        total = sum(seconds.values())
        lines[-1] += (
            f"; training takes about {total / 3600:.1f} hours one job after the other (from timed steps)"
        )
    return "\n".join(lines)
