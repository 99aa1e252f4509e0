"""`prumux grid CONFIG.yaml`: the command of the experiment grid."""

from __future__ import annotations

import argparse
from typing import Any

from prumux.errors import UserError


def add_command(commands: Any) -> None:
    """Add ``grid`` to the parser's ``commands``."""
    parser = commands.add_parser(
        "grid", help="train and evaluate tasks x N x sparsities; the same command goes on"
    )
    parser.add_argument("grid", metavar="GRID_YAML", help="what to run, see configs/grids")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the plan, with times estimated from timed steps"
    )
    parser.add_argument("--no_estimate", action="store_true", help="with --dry_run: no timed steps")
    parser.add_argument("--jobs", type=int, default=1, metavar="K", help="processes at once (default 1)")
    parser.add_argument("--only", metavar="NAME", help="this job alone")
    parser.add_argument(
        "--slurm", action="store_true", help="write array scripts for Slurm instead of running"
    )
    parser.set_defaults(run=_grid)


def _grid(arguments: argparse.Namespace) -> str:
    from prumux.grid.config import read_grid
    from prumux.grid.estimate import describe, estimate
    from prumux.grid.plan import pick, plan
    from prumux.grid.run import STORE, check_arguments, run_jobs
    from prumux.grid.slurm import write_slurm

    grid = read_grid(arguments.grid)
    jobs = plan(grid)
    if arguments.only is not None and (arguments.dry_run or arguments.slurm):
        raise UserError(
            "--only runs one job: leave it out with --dry_run and --slurm, which are about all of them"
        )
    if arguments.dry_run or arguments.slurm:
        check_arguments(jobs)
    if arguments.dry_run:
        return describe(jobs, None if arguments.no_estimate else estimate(jobs, grid))
    if arguments.slurm:
        script = write_slurm(jobs, arguments.grid, grid.output_dir)
        return f"written: {script}; queue the grid with: bash {script}"
    if arguments.only is not None:
        jobs = pick(jobs, arguments.only)
    outcome = run_jobs(jobs, grid.output_dir, arguments.jobs)
    done, new = len(outcome.skipped), len(outcome.finished)
    text = f"{new} jobs run, {done} done before, {len(outcome.failed)} failed, {len(outcome.blocked)} not reached"
    if outcome.failed:
        failures = "; ".join(f"{name} (log: {log})" for name, log in outcome.failed.items())
        raise UserError(f"{text}: {failures}; the same command tries again what is not done")
    return f"{text}\nresults: {grid.output_dir}/{STORE}"
