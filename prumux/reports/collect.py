"""Joins the reports of several evaluations into the rows of one table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prumux.errors import UserError


def collect(files: Iterable[str | Path]) -> tuple[list[dict[str, Any]], str]:
    """Rows of ``evaluation.json`` files: the first one's baseline, then each one's evaluated model, slowest first.

    A row's speedup is the one over the baseline that was measured beside it.

    Returns:
        Rows as ``format_table`` and ``plot_frontier`` take them, and the name of the score.

    Raises:
        UserError: no file, or one that is no evaluation report, or reports of different tasks.
    """
    reports = [_read(Path(file)) for file in files]
    if not reports:
        raise UserError("no reports to join: name evaluation.json files")
    tasks = sorted({report["task"] for report in reports})
    if len(tasks) > 1:
        raise UserError(f"reports of different tasks ({', '.join(tasks)}): join those of one task")
    first = reports[0]
    rows = [row for row in first["rows"] if row["model"] == first["baseline"]]
    rows += [report["rows"][-1] for report in reports if report["rows"][-1]["model"] != report["baseline"]]
    return [rows[0], *sorted(rows[1:], key=lambda row: row["speedup"])], first["main_metric"]


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if {"task", "rows", "baseline", "main_metric"} <= set(report) and report["rows"]:
            return report
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"can't read {file} ({error}): expected a file that evaluation.py wrote") from error
    raise UserError(f"{file} is no evaluation report: expected a file that evaluation.py wrote")
