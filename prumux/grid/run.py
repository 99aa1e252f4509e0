"""Runs a grid's jobs: what is done is skipped, what fails is listed, several at once, or as Slurm arrays."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from prumux.errors import UserError
from prumux.grid.config import PROJECT, GridConfig, project_file
from prumux.grid.plan import Job
from prumux.reports.provenance import atomic_file
from prumux.reports.store import VARIABLE
from prumux.training.folder import check_writable

if TYPE_CHECKING:
    from prumux.training.arguments import Arguments

logger = logging.getLogger(__name__)
POLL = 0.2  # seconds between looks at running processes
TIMED_STEPS = 6
PRUNING_COST = 1.5  # a step with a teacher, or with masks, beside a plain one of the same model
STORE = "runs.jsonl"


@dataclass
class Outcome:
    """Names of the jobs that were done before, finished now, failed (with their log), or were not reached."""

    skipped: list[str]
    finished: list[str]
    failed: dict[str, Path]
    blocked: list[str]


def run_jobs(jobs: Sequence[Job], output_dir: str | Path, at_once: int = 1) -> Outcome:
    """Run every job whose result is not there, after those it needs; one failure stops only what builds on it.

    Each job is a process of its own with a log file in ``output_dir/logs``; with several GPUs, jobs take turns on them.
    Where processes share a processor (no GPUs, or fewer than processes) evaluations come last and one by one, because
    they measure speed. An interrupt or a termination ends
    the running processes; the same command later goes on where they were.

    Raises:
        UserError: fewer than 1 at once, an unusable folder, wrong flags, or a finished run with other arguments.
    """
    if at_once < 1:
        raise UserError(f"--jobs is {at_once}: run at least 1 at once")
    check_writable(Path(output_dir))
    check_arguments(jobs)
    outcome = Outcome([job.name for job in jobs if job.done], [], {}, [])
    waiting = [job for job in jobs if not job.done]
    ready = {*outcome.skipped}
    running: dict[str, tuple[Job, subprocess.Popen[bytes], int]] = {}
    slots = list(range(at_once))
    gpus = _gpus()
    alone = at_once > max(1, len(gpus))
    with (
        _ended_by_signals(),
        tqdm(total=len(jobs), initial=len(ready), desc="grid", unit="job", disable=None) as progress,
    ):
        try:
            while waiting or running:
                for job in list(waiting):
                    lost = [need for need in job.needs if need in outcome.failed or need in outcome.blocked]
                    if lost:
                        waiting.remove(job)
                        outcome.blocked.append(job.name)
                        progress.update()
                    elif alone and not job.trains and (running or any(other.trains for other in waiting)):
                        continue
                    elif slots and all(need in ready for need in job.needs):
                        waiting.remove(job)
                        slot = slots.pop(0)
                        running[job.name] = (
                            job,
                            _start(job, output_dir, gpus[slot % len(gpus)] if len(gpus) > 1 else None),
                            slot,
                        )
                        progress.set_postfix_str(", ".join(running))
                for name, (job, process, slot) in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[name]
                    slots.append(slot)
                    progress.update()
                    if code == 0 and job.done:
                        ready.add(name)
                        outcome.finished.append(name)
                    else:
                        outcome.failed[name] = log_file(job, output_dir)
                        logger.warning("%s failed: %s", name, _last_line(outcome.failed[name]))
                time.sleep(POLL)
        finally:
            for _, process, _ in running.values():
                process.terminate()
            for _, process, _ in running.values():
                process.wait()
    return outcome


def check_arguments(jobs: Sequence[Job]) -> None:
    """Refuse now what would fail, or be mistaken for this grid's, later.

    Raises:
        UserError: flags of training that are unknown or wrong, or a job's folder holds a run with other arguments.
    """
    from prumux.training.folder import computing_flags, finished
    from prumux.training.parsing import parse_arguments

    for job in jobs:
        if not job.trains:
            continue
        try:
            recipe = parse_arguments(list(job.argv)).recipe
            if job.done:
                finished(job.result.parent, computing_flags(job.argv, recipe))
        except UserError as error:
            remedy = str(error).replace("pass --overwrite_output_dir", "remove that folder to train it again")
            raise UserError(f"{job.name}: {remedy}") from error


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the grid as Ctrl-C does, with its running jobs."""

    def end(number: int, _: object) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_file(job: Job, output_dir: str | Path) -> Path:
    return Path(output_dir) / "logs" / f"{job.name.replace('/', '.').replace(' ', '_')}.log"


def _start(job: Job, output_dir: str | Path, gpu: str | None) -> subprocess.Popen[bytes]:
    log = log_file(job, output_dir)
    log.parent.mkdir(parents=True, exist_ok=True)
    job.result.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, VARIABLE: str(Path(output_dir) / STORE)}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    with open(log, "ab") as stream:
        try:  # the process keeps the lock as long as it lives, also when the grid is gone
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{job.name} is running already (its log: {log}): wait for it, or end it"
            ) from None
        return subprocess.Popen(
            [sys.executable, str(PROJECT / job.script), *job.argv],
            stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip


def _gpus() -> list[str]:
    """The GPUs that this process may use, as the environment names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[: torch.cuda.device_count()] or [str(i) for i in range(torch.cuda.device_count())]


def _last_line(log: Path) -> str:
    try:
        lines = [
            line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
    except OSError:
        lines = []
    return lines[-1][-300:] if lines else "it left no output"


# ---- how long it will take


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
    import tempfile

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


# ---- Slurm


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


def pick(jobs: Iterable[Job], name: str) -> list[Job]:
    """The job ``name`` alone, its needs taken as done.

    Raises:
        UserError: there is none, or something it needs is missing.
    """
    by_name: dict[str, Any] = {job.name: job for job in jobs}
    if name not in by_name:
        raise UserError(f"no job '{name}' in this grid: --dry_run lists them")
    job = by_name[name]
    missing = [need for need in job.needs if not by_name[need].done]
    if missing:
        raise UserError(f"{name} needs {', '.join(missing)}, which is not done: run it first")
    return [by_name[need] for need in job.needs] + [job]
