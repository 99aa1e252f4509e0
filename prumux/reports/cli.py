"""`prumux report RESULTS ...`: the command of the tables, the frontier plot and the page."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from typing import Any

from prumux.errors import UserError

FLOOR = "TF-IDF + logistic regression"  # what --floor is the score of
# what prumux.auto calls them
AS_POINTS = {"score": "accuracy", "score_std": "accuracy_std", "speedup": "throughput"}


def _report(arguments: argparse.Namespace) -> str:
    from prumux.reports.collect import collect, tasks_of
    from prumux.reports.figures import plot_frontier
    from prumux.reports.page import write_page
    from prumux.reports.provenance import atomic_file
    from prumux.reports.tables import format_table, markdown
    from prumux.reports.thresholds import threshold_cells

    if wrong := [path for path in arguments.plot or [] if not path.lower().endswith((".png", ".svg"))]:
        raise UserError(f"--plot {wrong[0]}: expected a name that ends in .png or .svg")
    names = [arguments.task] if arguments.task else tasks_of(arguments.reports)
    tasks = {}
    for name in names:
        rows, metric = collect(arguments.reports, name, arguments.speeds or [])
        tasks[rows[0]["task"]] = rows, metric
    floors = _floors(arguments.floor or [], tasks)
    parts = []
    for task, (rows, metric) in tasks.items():
        parts += [f"## {task}"] if len(tasks) > 1 else []
        parts.append(format_table(rows, metric))
        header, cells = threshold_cells(rows)
        if cells:
            parts += [
                "Best speedup for an accuracy that must be kept (* the fastest):",
                markdown(header, cells),
            ]
        parts += [f"{FLOOR}: {floors[task]:.3f}"] if task in floors else []
    text = "\n\n".join(parts)
    if arguments.plot and len(tasks) > 1:
        raise UserError(f"a plot shows one task, there are {', '.join(tasks)}: choose with --task")
    lines = {task: (FLOOR, floor) for task, floor in floors.items()}
    written = []
    if arguments.markdown:
        with atomic_file(arguments.markdown) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        written.append(arguments.markdown)
    for path in arguments.plot or []:
        ((task, (rows, metric)),) = tasks.items()
        plot_frontier(rows, path, metric=metric, title=task, floor=lines.get(task))
        written.append(path)
    if arguments.csv:
        import pandas as pd

        table = pd.DataFrame([row for rows, _ in tasks.values() for row in rows]).rename(columns=AS_POINTS)
        with atomic_file(arguments.csv) as temporary:
            table.to_csv(temporary, index=False)
        written.append(arguments.csv)
    if arguments.html:
        written.append(str(write_page(tasks, arguments.html, lines)))
    return text + (f"\nwritten: {', '.join(written)}" if written else "")


def _floors(given: Sequence[str], tasks: Iterable[str]) -> dict[str, float]:
    """``TASK=SCORE`` or, where there is one task, ``SCORE`` -> the score of each task that has one."""
    floors = {}
    by_lower = {task.lower(): task for task in tasks}
    for text in given:
        name, _, score = text.rpartition("=")
        try:
            floor = float(score)
        except ValueError:
            floor = math.nan
        if not 0 <= floor <= 1:
            raise UserError(f"--floor is {text}, expected a fraction from 0 to 1 (0.82, not 82)")
        if not name and len(by_lower) > 1:
            raise UserError(
                f"--floor {text} is of one task, there are {', '.join(by_lower.values())}: give --floor TASK={score}"
            )
        if name and name.lower() not in by_lower:
            raise UserError(
                f"--floor {text}: no results of task {name}, there are results of {', '.join(by_lower.values())}"
            )
        floors[by_lower[name.lower()] if name else next(iter(by_lower.values()))] = floor
    return floors


def add_report(commands: Any) -> None:
    """Add ``report`` to the parser's ``commands``."""
    report = commands.add_parser(
        "report", help="tables, the frontier plot and a page from results stores or evaluation.json files"
    )
    report.add_argument(
        "reports",
        nargs="+",
        metavar="RESULTS",
        help="runs.jsonl, evaluation.json files, or a CSV file of points",
    )
    report.add_argument("--task", help="which, where there are several (default: all; a plot needs one)")
    report.add_argument(
        "--plot", action="append", metavar="PATH", help="draw the accuracy/speedup frontier, .png or .svg"
    )
    report.add_argument(
        "--floor",
        action="append",
        metavar="[TASK=]SCORE",
        help="draw what benchmarks/tfidf.py reached as a line; once for each task",
    )
    report.add_argument(
        "--speeds",
        action="append",
        metavar="PATH",
        help="take the models' speeds from this file of benchmarks/throughput.py, not from their evaluations",
    )
    report.add_argument("--markdown", metavar="PATH", help="write the tables")
    report.add_argument("--csv", metavar="PATH", help="write the rows, for `prumux auto` and others")
    report.add_argument("--html", metavar="PATH", help="write a page with tables and plots")
    report.set_defaults(run=_report)
