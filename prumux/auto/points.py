"""`Point`s: what was measured at (N, sparsity) on a task, read from a results store or a CSV file, and checked."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.reports.methods import PAPER, method_name
from prumux.reports.store import read_lines

COLUMNS = ("task", "num_instances", "sparsity", "accuracy", "throughput")
SAME = 1e-6  # numbers of duplicate rows that differ by less agree


@dataclass(frozen=True)
class Point:
    """One model.

    Attributes:
        accuracy: a fraction. accuracy_std: its spread over groupings or seeds, 0 where it was measured once.
        throughput: examples/s relative to the task's dense model, the row (1, 0).
    """

    task: str
    num_instances: int
    sparsity: float
    accuracy: float
    throughput: float
    accuracy_std: float = 0.0

    @property
    def key(self) -> tuple[int, float]:
        return self.num_instances, self.sparsity

    @property
    def method(self) -> str:
        return method_name(self.num_instances, self.sparsity)


def read_points(paths: str | Path | Sequence[str | Path]) -> list[Point]:
    """The points in results stores (``.jsonl``) and CSV files, sorted by task, N and sparsity.

    Several models of a store at one (task, N, sparsity) are several seeds: their mean is taken. In a CSV file such rows
    must agree.

    Raises:
        UserError: an unreadable file, missing columns, values that are no numbers or out of range, rows that disagree,
            no dense row (1, 0) of a task.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    points: list[Point] = []
    for path in map(Path, paths):
        points += _from_csv(path) if path.suffix.lower() in (".csv", ".tsv") else _from_store(path)
    _check_unit(points)
    points = _merged(points)
    for task in sorted({point.task for point in points}):
        if not any(point.task == task and point.key == (1, 0.0) for point in points):
            raise UserError(
                f"{task} has no row of the dense model (num_instances 1, sparsity 0), to which accuracy and throughput "
                "refer: add it"
            )
    return sorted(points, key=lambda point: (point.task, point.num_instances, point.sparsity))


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


def _from_csv(path: Path) -> list[Point]:
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except (OSError, ValueError) as error:
        raise UserError(
            f"can't read {path} ({error}): expected a CSV file with {', '.join(COLUMNS)}"
        ) from error
    table = table.rename(columns=lambda name: str(name).strip())
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}: expected {', '.join(COLUMNS)}, "
            f"found {', '.join(table.columns)}"
        )
    if table.empty:
        raise UserError(f"{path} has no rows: expected one per model, with {', '.join(COLUMNS)}")
    points = [
        _checked(str(path), number, dict(row))
        for number, (_, row) in enumerate(table.iterrows(), start=2)  # the header is line 1
    ]
    seen: dict[tuple[str, int, float], Point] = {}
    for point in points:
        other = seen.setdefault((point.task, *point.key), point)
        if (
            abs(other.accuracy - point.accuracy) > SAME
            or abs(other.throughput - point.throughput) > SAME * point.throughput
        ):
            raise UserError(
                f"{path} has two rows of {point.task} N={point.num_instances} sparsity={point.sparsity:g} that "
                f"disagree (accuracy {other.accuracy:g} and {point.accuracy:g}, throughput {other.throughput:g} and "
                f"{point.throughput:g}): keep one"
            )
    return list(seen.values())


def _from_store(path: Path) -> list[Point]:
    newest: dict[tuple[Any, ...], Point] = {}
    for number, line in enumerate(read_lines([path]), start=1):
        if line["kind"] != "evaluation" or line.get("accuracy") is None or line.get("speedup") is None:
            continue
        if line.get("method", PAPER[0]) not in PAPER or line.get("ensemble", 1) != 1:
            continue  # a rival, or slots shared by one input
        point = _checked(str(path), number, line | {"throughput": line["speedup"]})
        model = (point.task, *point.key, line.get("checkpoint"))
        newest[model] = point  # evaluated again: the last counts
    if not newest:
        raise UserError(
            f"{path} has no evaluation with accuracy and speedup: run evaluation.py on the models first"
        )
    return list(newest.values())


def _checked(path: str, number: int, row: dict[str, Any]) -> Point:
    def value(name: str) -> float:
        try:
            number_ = float(row[name])
        except (KeyError, TypeError, ValueError):
            number_ = math.nan
        if not math.isfinite(number_):
            raise UserError(f"{path}, line {number}: {name} is {row.get(name)!r}, expected a number")
        return number_

    instances, sparsity = value("num_instances"), value("sparsity")
    accuracy, throughput = value("accuracy"), value("throughput")
    if instances < 1 or instances != int(instances):
        raise UserError(
            f"{path}, line {number}: num_instances is {instances:g}, expected a whole number from 1 on"
        )
    if not 0 <= sparsity < 1:
        raise UserError(
            f"{path}, line {number}: sparsity is {sparsity:g}, expected a share from 0 to below 1 (0.6, not 60)"
        )
    if not -1 <= accuracy <= 100:
        raise UserError(f"{path}, line {number}: accuracy is {accuracy:g}, expected a fraction from 0 to 1")
    if throughput <= 0:
        raise UserError(
            f"{path}, line {number}: throughput is {throughput:g}, expected an improvement above 0"
        )
    spread = row.get("accuracy_std")
    spread = float(spread) if spread is not None and math.isfinite(float(spread)) else 0.0
    return Point(str(row["task"]), int(instances), round(sparsity, 6), accuracy, throughput, spread)


def _check_unit(points: list[Point]) -> None:
    percent = [point for point in points if point.accuracy > 1]
    if not percent:
        return
    point = percent[0]
    mixed = " while others are fractions" if len(percent) < len(points) else ""
    raise UserError(
        f"the accuracy of {point.task} N={point.num_instances} sparsity={point.sparsity:g} is {point.accuracy:g}, a "
        f"percentage{mixed}: give all accuracies as fractions (0.87, not 87)"
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
        merged.append(Point(same[0].task, *same[0].key, statistics.mean(accuracies), throughput, spread))
    return merged
