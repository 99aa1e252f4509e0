"""Rows of one table from results: evaluation reports, results stores, or CSV files of points."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.reports.evaluations import check_fractions, check_values, newest_evaluations
from prumux.reports.methods import FEWER_LAYERS, shown_sparsity
from prumux.reports.speeds import side_by_side

REPORT, TABLES = ".json", (".csv", ".tsv")  # any other file is a store
ACCURACY = "accuracy"
KEPT = (
    "true_sparsity",
    "layers",
    "parameters",
    "seeds",
    "examples_per_second",
    "operations",
)  # of a CSV file's row
SAME = 1e-3  # numbers of one model that differ by a smaller share agree: CSV files are rounded
NEEDED = {"model", "method", "num_instances", "sparsity", "score", "speedup"}  # of an evaluation's row


def collect(
    files: Iterable[str | Path], task: str | None = None, speeds: Sequence[str | Path] = ()
) -> tuple[list[dict[str, Any]], str]:
    """Rows of evaluated models, the dense baseline first, then slowest first.

    Of ``evaluation.json`` files: the first one's baseline, then each one's evaluated model, whose speedup is the one
    over the baseline that was measured beside it. Of stores (``.jsonl``): the newest evaluation of each model, several
    seeds of one (N, sparsity) as their mean. Of CSV files: their rows, see ``prumux.auto.points``.

    Args:
        task: which, where the files have several.
        speeds: files of speeds measured side by side, which take the place of those in stores, see ``side_by_side``.

    Returns:
        Rows as ``format_table`` and ``plot_frontier`` take them, and the name of the score.

    Raises:
        UserError: no file, one that holds no results, or results of different tasks or groupings.
    """
    paths = [Path(file) for file in files]
    if not paths:
        raise UserError("no reports to join: name evaluation.json files, or a results store")
    stores, tables = _kinds(paths)
    if speeds and not stores:
        raise UserError(
            "--speeds goes with a results store (.jsonl), whose models it knows by their paths: name one"
        )
    rows = _joined(
        _from_stores(stores, task, speeds) if stores else [], _from_points(tables, task) if tables else []
    )
    grouped: dict[str, Path] = {}
    for path in paths:
        if path not in stores and path not in tables:
            report = _read(path)
            rows += _from_report(report, keep_baseline=not rows)
            if report["rows"][-1]["num_instances"] > 1:
                by_length = (report.get("settings") or {}).get("group_by_length", False)
                grouped["by length" if by_length else "as they come"] = path
    if len(grouped) > 1:
        found = ", ".join(f"{path} {how}" for how, path in grouped.items())
        raise UserError(
            f"rows were grouped differently ({found}), which can't be compared: evaluate all models with "
            "--group_by_length or none"
        )
    rows = _of_one_task(rows, task)
    baseline = [row for row in rows if row["method"] == "dense"][:1]
    if not baseline and (stores or tables):
        raise UserError(
            f"there is no evaluation of {rows[0]['task']}'s dense model, to which the others are compared"
        )
    baseline = baseline or rows[:1]
    others = [row for row in rows if row is not baseline[0]]
    return baseline + sorted(others, key=lambda row: row["speedup"] or 0.0), rows[0]["metric"]


def _kinds(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The results stores among files, and the CSV files."""
    tables = [path for path in paths if path.suffix.lower() in TABLES]
    return [path for path in paths if path not in tables and path.suffix.lower() != REPORT], tables


def tasks_of(files: Iterable[str | Path]) -> list[str | None]:
    """The tasks that stores and CSV files hold results of; ``[None]`` where there are evaluation reports, too."""
    paths = [Path(file) for file in files]
    stores, tables = _kinds(paths)
    if len(stores) + len(tables) < len(paths):
        return [None]
    rows = (_from_stores(stores) if stores else []) + (_from_points(tables) if tables else [])
    return sorted({row["task"] for row in rows})


def _of_one_task(rows: list[dict[str, Any]], task: str | None) -> list[dict[str, Any]]:
    tasks = sorted({row["task"] for row in rows})
    if task is not None:
        exact = [row for row in rows if row["task"] == task]
        rows = exact or [row for row in rows if row["task"].lower() == task.lower()]
        if not rows:
            raise UserError(f"no results of task {task}: there are results of {', '.join(tasks)}")
    elif len(tasks) > 1:
        raise UserError(
            f"reports of different tasks ({', '.join(tasks)}): join those of one task, or choose with --task"
        )
    return rows


def _from_report(report: dict[str, Any], keep_baseline: bool) -> list[dict[str, Any]]:
    rows = [row for row in report["rows"] if row["model"] == report["baseline"]] if keep_baseline else []
    if report["rows"][-1]["model"] != report["baseline"]:
        rows.append(report["rows"][-1])
    return [row | {"task": report["task"], "metric": report["main_metric"]} for row in rows]


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(report, dict) and {"task", "rows", "baseline", "main_metric"} <= set(report):
            rows = report["rows"]
            if (
                isinstance(rows, list)
                and rows
                and all(isinstance(row, dict) and set(row) >= NEEDED for row in rows)
                and isinstance(report["task"], str)
            ):
                for row in rows:
                    _check_row(file, report["task"], row)
                return report
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # not JSON, not UTF-8
        raise UserError(f"can't read {file} ({error}): expected a file that evaluation.py wrote") from error
    raise UserError(f"{file} is no evaluation report: expected a file that evaluation.py wrote")


def _check_row(file: Path, task: str, row: dict[str, Any]) -> None:
    """Refuse numbers that no evaluation has; of a model that was not trained there is no score."""
    where = f"{file}, model {row['model']}"
    unknown = {"score": 0.0, "speedup": 1.0}
    values = {name: value if row[name] is None else row[name] for name, value in unknown.items()}
    line = {"task": task, "accuracy": values["score"], "speedup": values["speedup"]}
    line |= {name: row[name] for name in ("num_instances", "sparsity", "method")}
    check_values(where, line, "speedup")
    check_fractions([(task, row["num_instances"], row["sparsity"], values["score"])])


def _joined(rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stores' rows and those of CSV files that say something new.

    Raises:
        UserError: two rows of one model disagree.
    """

    known = {_place(row): row for row in rows}
    for row in more:
        other = known.get(_place(row))
        if other is None:
            rows = [*rows, row]
        elif any(abs(other[name] - row[name]) > SAME * abs(row[name]) for name in ("score", "speedup")):
            raise UserError(
                f"a results store and a CSV file disagree about {row['task']} {row['model']} (accuracy "
                f"{other['score']:g} and {row['score']:g}, speedup {other['speedup']:g} and {row['speedup']:g}): keep "
                "one of them"
            )
    return rows


def _from_points(files: Sequence[Path], task: str | None = None) -> list[dict[str, Any]]:
    from prumux.auto.points import read_points, read_tables

    read_points(files, None if task is None else [task])  # refuses what the rows below can't be
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in read_tables(files):
        row = {
            "task": line["task"],
            "metric": line.get("metric") or ACCURACY,
            "model": _label(line["method"], line["num_instances"], line["sparsity"], line.get("layers")),
            **{name: line.get(name) for name in ("method", "num_instances", "sparsity", *KEPT)},
            "score": line["accuracy"],
            "score_std": line["accuracy_std"],
            "speedup": line["throughput"],
        }
        rows.setdefault(_place(row), row)
    return list(rows.values())


def _from_stores(
    files: Sequence[Path], task: str | None = None, speeds: Sequence[str | Path] = ()
) -> list[dict[str, Any]]:
    lines = [
        line for line in newest_evaluations(files, None if task is None else [task]) if line["ensemble"] == 1
    ]
    if speeds:
        lines = side_by_side(
            [line for line in lines if task is None or line["task"].lower() == task.lower()], speeds
        )
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        places.setdefault(_place(line), []).append(line)
    return [_merged(lines) for lines in places.values()]


def _merged(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the evaluations of several seeds."""
    first = lines[0]
    scores = [line["accuracy"] for line in lines]
    speedups = [line["speedup"] for line in lines if line.get("speedup") is not None]
    rates = [line["examples_per_second"] for line in lines if line.get("examples_per_second") is not None]
    counted = [line["true_sparsity"] for line in lines if line.get("true_sparsity") is not None]
    operations = [line["operations"] for line in lines if line.get("operations") is not None]
    return {
        "task": first["task"],
        "metric": first.get("metric") or ACCURACY,
        "model": _label(first["method"], first["num_instances"], first["sparsity"], first.get("layers")),
        "method": first["method"],
        "num_instances": first["num_instances"],
        "sparsity": first["sparsity"],
        "true_sparsity": statistics.mean(counted) if counted else None,
        "layers": first.get("layers"),
        "parameters": first.get("parameters"),
        "score": statistics.mean(scores),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else first.get("accuracy_std"),
        "seeds": len(lines),
        "examples_per_second": statistics.mean(rates) if rates else None,
        "speedup": statistics.mean(speedups) if speedups else None,
        "operations": statistics.mean(operations) if operations else None,
    }


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is about; of the rivals their depth, too."""
    depth = row.get("layers") if row["method"] == FEWER_LAYERS else None
    return row["task"], row["method"], row["num_instances"], row["sparsity"], depth


def _label(method: str, num_instances: int, sparsity: float, layers: int | None) -> str:
    """What a model is called in a table, such as ``PruMUX (2, 0.60)`` or ``first 3 layers``."""
    if method == FEWER_LAYERS:
        return f"first {layers} layer{'s' if layers != 1 else ''}"
    if num_instances == 1 and sparsity == 0:
        return method
    return f"{method} ({num_instances}, {shown_sparsity(sparsity)})"
