"""Evaluations out of results stores: the newest of each model, checked, under one set of conditions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.reports.methods import method_name
from prumux.reports.store import read_lines

logger = logging.getLogger(__name__)
OPTIONAL = (
    "examples_per_second",
    "true_sparsity",
    "train_seed",
    "layers",
    "parameters",
    "ensemble",
    "seeds",
)  # numbers where they are there
COUNTS = ("train_seed", "layers", "parameters", "ensemble", "seeds")  # of them, those without fractions
CONDITIONS = ("metric", "device", "dtype", "length", "engine")  # under which models can be compared
NAMES = (
    "method",
    "metric",
    "device",
    "dtype",
    "engine",
    "grouped_by",
    "checkpoint",
)  # text where they are there
MOST = 1e9  # of N and of an improvement, in either direction: beyond it a number is none of a model
MOST_OPERATIONS = 1e21


def check_values(where: str, row: dict[str, Any], throughput: str) -> dict[str, Any]:
    """The row of a results file with its numbers as numbers.

    Args:
        where: names the file (and the line) in messages. throughput: the name of the column that holds it.

    Raises:
        UserError: a value that is missing, no number or out of range.
    """

    def number(name: str, optional: bool = False) -> float | None:
        given = row.get(name)
        if optional and (given is None or given == ""):
            return None
        try:
            value = float(given)  # type: ignore[arg-type]  # what is no number is caught
        except (TypeError, ValueError):
            value = math.nan
        if optional and isinstance(given, float) and math.isnan(given):
            return None  # an empty cell
        if not math.isfinite(value):
            raise UserError(f"{where}: {name} is {given!r}, expected a number")
        return value

    def require(condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise UserError(f"{where}: {name} is {row[name]}, expected {expected}")

    task = str(row.get("task") or "").strip()
    if not task or task == "nan":
        raise UserError(f"{where}: no task is named, expected one such as SST-2")
    for name in NAMES:
        if row.get(name) is not None and not isinstance(row[name], str):
            raise UserError(f"{where}: {name} is {row[name]!r:.60}, expected a name")
    checked = row | {name: number(name) for name in ("num_instances", "sparsity", "accuracy", throughput)}
    checked |= {name: number(name, optional=True) for name in ("accuracy_std", "operations")}
    for name in OPTIONAL:
        if name in row:
            value = number(name, optional=True)
            checked[name] = int(value) if value is not None and name in COUNTS else value
    instances, sparsity = checked["num_instances"], checked["sparsity"]
    spread, operations = checked["accuracy_std"], checked["operations"]
    require(
        1 <= instances <= MOST and instances == int(instances), "num_instances", "a whole number from 1 on"
    )
    require(0 <= sparsity < 1, "sparsity", "a share from 0 to below 1 (0.6, not 60)")
    require(-1 <= checked["accuracy"] <= 100, "accuracy", "a fraction, at most 1")
    require(1 / MOST <= checked[throughput] <= MOST, throughput, "an improvement above 0")
    require(spread is None or spread >= 0, "accuracy_std", "a standard deviation from 0 on")
    require(operations is None or 0 < operations <= MOST_OPERATIONS, "operations", "a count above 0")
    return checked | {"task": task, "num_instances": int(instances), "sparsity": round(sparsity, 6)}


def newest_evaluations(
    paths: Iterable[str | Path], tasks: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """The newest evaluation of each model in the stores: of each task, method, N, sparsity, depth and training seed.

    ``tasks``: those that are looked at (default all); conditions of others may differ.

    Raises:
        UserError: no evaluation, a line with a missing or wrong value, or evaluations of a task under different
            conditions (metric, device, dtype, length, engine, grouping), which can't be compared.
    """
    paths = [Path(path) for path in paths]
    where = ", ".join(map(str, paths))
    asked = None if tasks is None else {task.lower() for task in tasks}
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    replaced: list[dict[str, Any]] = []
    for line in read_lines(paths):
        if line["kind"] != "evaluation" or line.get("accuracy") is None or line.get("speedup") is None:
            continue
        try:
            line = check_values(f"{where}, an evaluation of {line.get('path')}", line, "speedup")
        except UserError:
            if asked is not None and str(line.get("task")).lower() not in asked:
                continue
            raise
        line["method"] = line.get("method") or method_name(line["num_instances"], line["sparsity"])
        line["ensemble"] = line.get("ensemble") or 1
        line["grouped_by"] = str(line.get("grouped_by") or "order")
        line["metric"] = str(line.get("metric") or "accuracy")
        names = ("task", "method", "num_instances", "sparsity", "layers", "ensemble", "train_seed")
        key = tuple(line.get(name) for name in names)
        other = newest.get(key)
        older, newer = (other, line) if other is None or _time(line) >= _time(other) else (line, other)
        newest[key] = newer
        if older is not None and older.get("checkpoint") != newer.get("checkpoint"):
            replaced.append(older)
    if not newest:
        raise UserError(
            f"{where} has no evaluation with accuracy and speedup: run evaluation.py on the models first"
        )
    # beside evaluations of known seeds one that says none is no further seed
    seeded = {key[:-1] for key in newest if key[-1] is not None}
    replaced += [line for key, line in newest.items() if key[-1] is None and key[:-1] in seeded]
    lines = [line for key, line in newest.items() if key[-1] is not None or key[:-1] not in seeded]
    _say_what_is_left_out(where, replaced, lines, asked)
    for name in {line["task"] for line in lines if asked is None or line["task"].lower() in asked}:
        own = [line for line in lines if line["task"] == name]
        seen = {key: {str(line.get(key)) for line in own} for key in CONDITIONS}
        seen["grouped_by"] = {line["grouped_by"] for line in own if line["num_instances"] > 1}
        differing = [
            f"{key} {' or '.join(sorted(values))}" for key, values in seen.items() if len(values) > 1
        ]
        if differing:
            raise UserError(
                f"{where}: {name} was evaluated under different conditions ({', '.join(differing)}), which can't be "
                "compared: evaluate all models alike, keep a store for each, or choose another --task"
            )
    _check_unit(lines)
    return lines


def _say_what_is_left_out(
    where: str, replaced: list[dict[str, Any]], lines: list[dict[str, Any]], asked: set[str] | None
) -> None:
    """Warn of several models at one place, of which the newest counts, and of speeds from different machines."""
    replaced = [line for line in replaced if asked is None or line["task"].lower() in asked]
    if replaced:
        first = replaced[0]
        logger.warning(
            "%s: %d evaluations are of other models than the newest at their place, such as %s %s (%d, %g) with "
            "accuracy %.3f: they are left out",
            where, len(replaced), first["task"], first["method"], first["num_instances"], first["sparsity"],
            first["accuracy"],
        )  # fmt: skip
    for name in sorted({line["task"] for line in lines if asked is None or line["task"].lower() in asked}):
        machines = {_machine(line) for line in lines if line["task"] == name} - {""}
        if len(machines) > 1:
            logger.warning(
                "%s: the speedups of %s were measured on different machines (%s), which shifts them",
                where, name, "; ".join(sorted(machines)),
            )  # fmt: skip


def _machine(line: dict[str, Any]) -> str:
    """What it was timed on; empty where nothing says it."""
    made = line.get("provenance")
    hardware = made.get("hardware") if isinstance(made, dict) else None
    if not isinstance(hardware, dict):
        return ""
    if str(line.get("device")).startswith("cuda"):
        return str(hardware.get("gpu"))
    return f"{hardware.get('cpu')}, {hardware.get('threads')} threads"


def _time(line: dict[str, Any]) -> str:
    """When it was written, in ISO 8601 and UTC, which sorts as text; empty where nothing says it."""
    made = line.get("provenance")
    return str(made.get("time", "")) if isinstance(made, dict) else ""


def _check_unit(rows: list[dict[str, Any]]) -> None:
    check_fractions([(row["task"], row["num_instances"], row["sparsity"], row["accuracy"]) for row in rows])


def check_fractions(values: list[tuple[str, int, float, float]]) -> None:
    """Refuse accuracies in percent; each value is (task, N, sparsity, accuracy).

    Raises:
        UserError: one is above 1.
    """
    percent = [value for value in values if value[3] > 1]
    if percent:
        task, n, s, accuracy = percent[0]
        mixed = " while others are fractions" if len(percent) < len(values) else ""
        raise UserError(
            f"the accuracy of {task} N={n} sparsity={s:g} is {accuracy:g}, a percentage{mixed}: give all accuracies as "
            "fractions (0.87, not 87)"
        )
