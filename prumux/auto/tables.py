"""The paper's tables 1 to 3 from a results file, in its layout, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prumux.auto.points import Point
from prumux.auto.search import AutoPruMUX, best_within
from prumux.errors import UserError
from prumux.reports.methods import shown_sparsity
from prumux.reports.tables import markdown

Build = Callable[[str], AutoPruMUX]


def table_1(quality: Mapping[str, Mapping[str, float]]) -> str:
    """``M_A`` and ``M_T`` by task, as ``AutoPruMUX.quality`` gives them; two tasks in a row."""
    cells = [[task, f"{q['M_A']:.1%}", f"{q['M_T']:.1%}"] for task, q in quality.items()]
    return markdown(["Task", "M_A", "M_T"] * 2, _two_in_a_row(cells))


def table_2(rows: Sequence[Mapping[str, Any]]) -> str:
    """Top predictions beside the actual best.

    Each row has ``task``, ``predictions`` (a list of (N, s, throughput)) and ``best`` (one such, or ``None``).
    """
    lines = []
    for row in rows:
        best = "" if row["best"] is None else _pair(row["best"])
        for place, prediction in enumerate(row["predictions"], start=1):
            first = place == 1
            lines.append(
                [row["task"] if first else "", f"Top {place}: {_pair(prediction)}", best if first else ""]
            )
    return markdown(["Task", "Auto-PruMUX (N, s), Throu. (x)", "Actual Best (N, s), Throu. (x)"], lines)


def table_3(rates: Mapping[str, float]) -> str:
    """Hit rates by task; two tasks in a row."""
    return markdown(
        ["Task", "Accuracy"] * 2, _two_in_a_row([[t, f"{rate:.1%}"] for t, rate in rates.items()])
    )


def _pair(prediction: Sequence[float]) -> str:
    n, s, throughput = prediction
    return f"({n:g}, {shown_sparsity(s)}), {throughput:.1f}"


def _two_in_a_row(cells: list[list[str]]) -> list[list[str]]:
    half = (len(cells) + 1) // 2  # the left half holds the first tasks, as in the paper
    empty = [""] * (len(cells[0]) if cells else 0)
    right = cells[half:] + [empty] * (2 * half - len(cells))
    return [left + other for left, other in zip(cells[:half], right, strict=True)]


def tables(
    points: Sequence[Point],
    build: Build,
    number: int,
    *,
    loss_budget: float,
    top: int,
    train_sparsity: Sequence[float] | None,
    chosen: Sequence[str] = (),
) -> tuple[str, dict[str, Any]]:
    """Table ``number`` of the ``chosen`` or all tasks as Markdown, and its values; ``build`` fits a task's models."""
    if number == 1 and train_sparsity is not None:
        raise UserError("--train_sparsity is of tables 2 and 3: table 1 leaves out one point after the other")
    models = {task: build(task) for task in chosen or sorted({point.task for point in points})}
    if number == 1:
        quality = {task: model.quality() for task, model in models.items()}
        return table_1(quality), quality
    if number == 2:
        rows = []
        for task, model in models.items():
            threshold = model.threshold(loss_budget)
            ranked = best_within(model.held_out(train_sparsity), threshold, top)
            best = model.best_measured(loss_budget)
            rows.append(
                {
                    "task": task,
                    "threshold": threshold,
                    "predictions": [(p.num_instances, p.sparsity, p.throughput) for p in ranked],
                    "best": (*best.key, best.throughput),
                }
            )
        return table_2(rows), {"rows": rows}
    rates = {task: model.hit_rate(top, train_sparsity=train_sparsity) for task, model in models.items()}
    return table_3(rates), rates
