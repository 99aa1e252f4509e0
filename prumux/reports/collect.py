"""Rows of one table from results: evaluation reports, results stores, or CSV files of points."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.reports.methods import FEWER_LAYERS, method_name, shown_sparsity
from prumux.reports.store import read_lines

POINTS = (".csv", ".tsv")
ACCURACY = "accuracy"


def collect(files: Iterable[str | Path], task: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """Rows of evaluated models, the dense baseline first, then slowest first.

    Of ``evaluation.json`` files: the first one's baseline, then each one's evaluated model, whose speedup is the one
    over the baseline that was measured beside it. Of stores (``.jsonl``): the newest evaluation of each model, several
    seeds of one (N, sparsity) as their mean. Of CSV files: their rows, see ``prumux.auto.points``.

    Args:
        task: which, where the files have several.

    Returns:
        Rows as ``format_table`` and ``plot_frontier`` take them, and the name of the score.

    Raises:
        UserError: no file, one that holds no results, or results of different tasks.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise UserError("no reports to join: name evaluation.json files, or a results store")
    rows: list[dict[str, Any]] = []
    for file in paths:
        if file.suffix.lower() in POINTS:
            rows += _from_points(file)
        elif file.suffix.lower() == ".jsonl":
            rows += _from_store(file)
        else:
            rows += _from_report(file, keep_baseline=not rows)
    rows = _of_one_task(rows, task)
    baseline = [row for row in rows if row["method"] == "dense"][:1]
    others = [row for row in rows if row["method"] != "dense"]
    return baseline + sorted(others, key=lambda row: row["speedup"] or 0.0), rows[0]["metric"]


def tasks_of(files: Iterable[str | Path]) -> list[str]:
    """The tasks that stores and CSV files hold results of."""
    tasks: set[str] = set()
    for file in map(Path, files):
        found = _from_points(file) if file.suffix.lower() in POINTS else _from_store(file)
        tasks |= {row["task"] for row in found}
    return sorted(tasks)


def _of_one_task(rows: list[dict[str, Any]], task: str | None) -> list[dict[str, Any]]:
    tasks = sorted({row["task"] for row in rows})
    if task is not None:
        rows = [row for row in rows if row["task"].lower() == task.lower()]
        if not rows:
            raise UserError(f"no results of task {task}: there are results of {', '.join(tasks)}")
    elif len(tasks) > 1:
        raise UserError(
            f"reports of different tasks ({', '.join(tasks)}): join those of one task, or choose with --task"
        )
    return rows


def _from_report(file: Path, keep_baseline: bool) -> list[dict[str, Any]]:
    report = _read(file)
    rows = [row for row in report["rows"] if row["model"] == report["baseline"]] if keep_baseline else []
    if report["rows"][-1]["model"] != report["baseline"]:
        rows.append(report["rows"][-1])
    return [row | {"task": report["task"], "metric": report["main_metric"]} for row in rows]


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if {"task", "rows", "baseline", "main_metric"} <= set(report) and report["rows"]:
            return report
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"can't read {file} ({error}): expected a file that evaluation.py wrote") from error
    raise UserError(f"{file} is no evaluation report: expected a file that evaluation.py wrote")


def _from_points(file: Path) -> list[dict[str, Any]]:
    from prumux.auto.points import read_points

    return [
        {
            "task": point.task,
            "metric": ACCURACY,
            "model": _label(point.method, point.num_instances, point.sparsity, None),
            "method": point.method,
            "num_instances": point.num_instances,
            "sparsity": point.sparsity,
            "score": point.accuracy,
            "speedup": point.throughput,
        }
        for point in read_points(file)
    ]


def _from_store(file: Path) -> list[dict[str, Any]]:
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in read_lines([file]):
        if line["kind"] == "evaluation" and line.get("accuracy") is not None:
            place = (
                line["task"],
                line.setdefault("method", method_name(line["num_instances"], line["sparsity"])),
                line["num_instances"],
                line["sparsity"],
                line.get("layers"),
            )
            model = (*place, line.get("ensemble", 1), line.get("checkpoint"))
            newest[model] = line
    if not newest:
        raise UserError(f"{file} has no evaluation: run evaluation.py on the models first")
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for key, line in newest.items():
        if line.get("ensemble", 1) == 1:
            places.setdefault(key[:-2], []).append(line)
    return [_merged(lines) for lines in places.values()]


def _merged(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the evaluations of several seeds."""
    first = lines[0]
    scores = [line["accuracy"] for line in lines]
    speedups = [line["speedup"] for line in lines if line.get("speedup") is not None]
    rates = [line["examples_per_second"] for line in lines if line.get("examples_per_second") is not None]
    return {
        "task": first["task"],
        "metric": first.get("metric") or ACCURACY,
        "model": _label(first["method"], first["num_instances"], first["sparsity"], first.get("layers")),
        "method": first["method"],
        "num_instances": first["num_instances"],
        "sparsity": first["sparsity"],
        "layers": first.get("layers"),
        "parameters": first.get("parameters"),
        "score": statistics.mean(scores),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else first.get("accuracy_std"),
        "seeds": len(lines),
        "examples_per_second": statistics.mean(rates) if rates else None,
        "speedup": statistics.mean(speedups) if speedups else None,
    }


def _label(method: str, num_instances: int, sparsity: float, layers: int | None) -> str:
    """What a model is called in a table, such as ``PruMUX (2, 0.60)`` or ``first 3 layers``."""
    if method == FEWER_LAYERS:
        return f"first {layers} layer{'s' if layers != 1 else ''}"
    if num_instances == 1 and sparsity == 0:
        return method
    return f"{method} ({num_instances}, {shown_sparsity(sparsity)})"
