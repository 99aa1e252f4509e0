"""`Point`s: what was measured at (N, sparsity) on a task, read from a results store or a CSV file, and checked."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from prumux.errors import MOST_SHOWN, UserError
from prumux.reports.evaluations import check_fractions, check_values, newest_evaluations
from prumux.reports.methods import FEWER_LAYERS, PAPER, method_name

COLUMNS = ("task", "num_instances", "sparsity", "accuracy", "throughput")
TABLES = (".csv", ".tsv")
SAME = 1e-6  # numbers of duplicate rows that differ by less agree
NEARLY_ONE = 0.05  # how far the dense model's throughput relative to itself may be from 1


@dataclass(frozen=True)
class Point:
    """One model.

    Attributes:
        accuracy: a fraction. accuracy_std: its spread over groupings or seeds, 0 where it is not known.
        throughput: examples/s relative to the task's dense model, the row (1, 0).
        operations: counted floating-point operations of an example, ``None`` where they are not known.
    """

    task: str
    num_instances: int
    sparsity: float
    accuracy: float
    throughput: float
    accuracy_std: float = 0.0
    operations: float | None = None

    @property
    def key(self) -> tuple[int, float]:
        return self.num_instances, self.sparsity

    @property
    def method(self) -> str:
        return method_name(self.num_instances, self.sparsity)


def read_points(paths: str | Path | Sequence[str | Path], tasks: Iterable[str] | None = None) -> list[Point]:
    """The points in results stores (``.jsonl``) and CSV files, sorted by task, N and sparsity.

    ``tasks``: those that are looked at (default all), see ``newest_evaluations``.

    Several training seeds of a store at one (task, N, sparsity) are averaged; in CSV files such rows must agree.

    Raises:
        UserError: an unreadable file, missing columns, values that are no numbers or out of range, rows that disagree,
            no dense row (1, 0) of a task, or one whose throughput relative to itself isn't 1.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    stores = [file for file in files if file.suffix.lower() not in TABLES]
    points = _from_tables([file for file in files if file.suffix.lower() in TABLES])
    points += _merged(_from_stores(stores, tasks)) if stores else []
    _refuse_disagreement(points)
    check_fractions([(p.task, p.num_instances, p.sparsity, p.accuracy) for p in points])
    points = list({(p.task, *p.key): p for p in points}.values())
    asked = None if tasks is None else {task.lower() for task in tasks}
    chosen = [point for point in points if asked is None or point.task.lower() in asked]
    points = chosen or points  # of none: what there is, for the message
    for dense in _dense_points(points):
        if abs(dense.throughput - 1) > NEARLY_ONE:
            raise UserError(
                f"the throughput of {dense.task}'s dense model is {dense.throughput:g}, expected 1: give every "
                "throughput as the improvement over that row"
            )
    return sorted(points, key=lambda point: (point.task, point.num_instances, point.sparsity))


def check_points(points: Sequence[Point]) -> None:
    """Refuse points that can't be fitted to, as a file with them is refused.

    Raises:
        UserError: values out of range or that are no numbers, points that disagree, no dense point of a task.
    """
    for point in points:
        check_values(f"{point.task} N={point.num_instances}", asdict(point), "throughput")
    _refuse_disagreement(points)
    check_fractions([(p.task, p.num_instances, p.sparsity, p.accuracy) for p in points])
    _dense_points(points)


def _dense_points(points: Sequence[Point]) -> list[Point]:
    """Each task's row (1, 0)."""
    found = []
    for task in sorted({point.task for point in points}):
        dense = next((point for point in points if point.task == task and point.key == (1, 0.0)), None)
        if dense is None:
            raise UserError(
                f"{task} has no row of the dense model (num_instances 1, sparsity 0), to which accuracy and throughput "
                "refer: add it"
            )
        found.append(dense)
    return found


def points_of(points: Iterable[Point], task: str) -> dict[tuple[int, float], Point]:
    """A task's points by (N, sparsity).

    Raises:
        UserError: it has none.
    """
    points = list(points)
    chosen = {point.key: point for point in points if point.task == task}
    if not chosen:
        there = ", ".join(sorted({point.task for point in points}))
        raise UserError(f"no results of task {task}: there are results of {there or 'no task'}")
    return chosen


def _from_tables(files: Sequence[Path]) -> list[Point]:
    # no rivals, which `prumux report --csv` writes, too
    return [_point(row, "throughput") for row in read_tables(files) if row["method"] != FEWER_LAYERS]


def read_tables(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of CSV files, checked, with the ``method`` that each is; those of rivals have ``layers``.

    Raises:
        UserError: an unreadable file, missing columns, or values that are no numbers or out of range.
    """
    found = []
    for path in files:
        separator, named = ("\t", "tabs") if path.suffix.lower() == ".tsv" else (",", "commas")
        try:
            with open(path, encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream, delimiter=separator, strict=True)
                table = [[cell.strip() for cell in row] for row in reader if row]
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(
                f"can't read {path} ({error}): expected a CSV file with {', '.join(COLUMNS)}"
            ) from error
        header, rows = (table[0], table[1:]) if table else ([], [])
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}: expected {', '.join(COLUMNS)}, separated by {named}, "
                f"found {shorten(', '.join(header), MOST_SHOWN)}"
            )
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"{path} has two columns {', '.join(twice)}: keep one of each")
        if not rows:
            raise UserError(f"{path} has no rows: expected one per model, with {', '.join(COLUMNS)}")
        for number, row in enumerate(rows, start=1):
            where = f"{path}, row {number}"
            if len(row) != len(header):
                raise UserError(
                    f"{where} has {len(row)} values, expected {len(header)} as in the header (decimals have a point, "
                    "not a comma)"
                )
            values = dict(zip(header, row, strict=True))
            line = check_values(where, values, "throughput")
            if values.get("method") != FEWER_LAYERS:
                line["method"] = method_name(line["num_instances"], line["sparsity"])
            elif line.get("layers") is None:
                raise UserError(
                    f"{where}: no layers are given, expected how many the model of '{FEWER_LAYERS}' has"
                )
            found.append(line)
    return found


def _from_stores(files: Sequence[Path], tasks: Iterable[str] | None) -> list[Point]:
    return [
        _point(line, "speedup")
        for line in newest_evaluations(files, tasks)
        if line["method"] in PAPER and line["ensemble"] == 1  # no rivals, and no slots shared by one input
    ]


def _point(row: dict[str, Any], throughput: str) -> Point:
    return Point(
        row["task"],
        row["num_instances"],
        row["sparsity"],
        row["accuracy"],
        row[throughput],
        row["accuracy_std"] or 0.0,
        row["operations"],
    )


def _refuse_disagreement(points: Sequence[Point]) -> None:
    seen: dict[tuple[str, int, float], Point] = {}
    for point in points:
        other = seen.setdefault((point.task, *point.key), point)
        if (
            abs(other.accuracy - point.accuracy) > SAME
            or abs(other.throughput - point.throughput) > SAME * point.throughput
        ):
            raise UserError(
                f"there are two rows of {point.task} N={point.num_instances} sparsity={point.sparsity:g} that disagree "
                f"(accuracy {other.accuracy:g} and {point.accuracy:g}, throughput {other.throughput:g} and "
                f"{point.throughput:g}): keep one"
            )


def _merged(points: list[Point]) -> list[Point]:
    """One point per (task, N, sparsity): the mean of several seeds."""
    by_key: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        by_key.setdefault((point.task, *point.key), []).append(point)
    merged = []
    for same in by_key.values():
        accuracies = [point.accuracy for point in same]
        spread = statistics.stdev(accuracies) if len(same) > 1 else same[0].accuracy_std
        throughput = statistics.mean(point.throughput for point in same)
        operations = [point.operations for point in same if point.operations is not None]
        merged.append(
            Point(
                same[0].task,
                *same[0].key,
                statistics.mean(accuracies),
                throughput,
                spread,
                statistics.mean(operations) if len(operations) == len(same) else None,
            )
        )
    return merged


def choose_task(points: Sequence[Point], task: str | None) -> str:
    """``task``, or the only one there is.

    Raises:
        UserError: several, and none was named.
    """
    tasks = sorted({point.task for point in points})
    if task is not None:
        by_lower = {name.lower(): name for name in tasks}
        return task if task in tasks else by_lower.get(task.lower(), task)
    if len(tasks) != 1:
        raise UserError(f"results of several tasks ({', '.join(tasks)}): choose one with --task")
    return tasks[0]
