"""Runs a grid's jobs: what is done is skipped, what fails is listed, several at once, or as Slurm arrays."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from prumux.errors import UserError
from prumux.grid.config import PROJECT
from prumux.grid.plan import Job
from prumux.reports.store import VARIABLE
from prumux.training.folder import check_writable

logger = logging.getLogger(__name__)
POLL = 0.2  # seconds between looks at running processes
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
