"""Speeds that `benchmarks/throughput.py` measured side by side, in the place of those that each evaluation measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prumux.errors import UserError

MADE_BY = "expected a file that benchmarks/throughput.py wrote with --json"
CONDITIONS = ("engine", "dtype", "device", "length")


def side_by_side(lines: Sequence[dict[str, Any]], files: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Evaluations with the examples/s and the speedup that the benchmark measured for their models.

    A model is known by its path, the dense one by its row in the benchmark, to which the ratios refer.

    Args:
        lines: of a results store, each with ``path``, ``method`` and the conditions it was timed under.
        files: the benchmark's JSON.

    Raises:
        UserError: an unreadable file, or a model that was not timed under the evaluation's conditions.
    """
    paths = [Path(file) for file in files]
    timed = {(row["name"], _conditions(row)): row for path in paths for row in _rows(path)}
    where = ", ".join(map(str, paths))
    replaced = []
    for line in lines:
        conditions, dense = _conditions(line), line["method"] == "dense"
        row = timed.get((str(line.get("path")), conditions))
        if row is None and dense:
            row = timed.get(("dense", conditions))
        ratio = 1.0 if dense else row and row["ratios"].get(f"{line.get('engine')}_{line.get('dtype')}")
        if row is None or not ratio:
            under = ", ".join(map(str, conditions))
            raise UserError(
                f"{where} has no speed of {line.get('path')} ({under}): time it with benchmarks/throughput.py "
                f"--model {line.get('path')} ... --json, or leave --speeds out"
            )
        replaced.append(line | {"examples_per_second": row["examples_per_second"], "speedup": float(ratio)})
    return replaced


def _conditions(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in CONDITIONS)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            measured = [float(value) for value in (row["examples_per_second"], *row["ratios"].values())]
            if not {"name", *CONDITIONS} <= set(row) or not all(0 < value < math.inf for value in measured):
                raise ValueError(row)
    except OSError as error:
        raise UserError(f"can't read {path} ({error}): {MADE_BY}") from error
    except Exception as error:  # JSON of any other shape
        raise UserError(f"{path} holds no timed models: {MADE_BY}") from error
    return list(rows)
