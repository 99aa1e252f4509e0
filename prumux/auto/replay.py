"""`replay`: a fully measured grid searched as if it were not, to see how many runs `auto next` saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prumux.auto.points import Point, points_of
from prumux.auto.search import WORTH_IT, AutoPruMUX


def replay(
    points: Sequence[Point], task: str, loss_budget: float, *, stop_below: float = WORTH_IT, **options: Any
) -> dict[str, Any]:
    """Search a fully measured grid as if it were not: how many pruned models until the suggestions end.

    It starts with all unpruned points and, per N (also N = 1), the least and greatest sparsity, and goes on while the
    expected gain is at least ``stop_below`` of the best throughput so far. ``options``: of :class:`AutoPruMUX`.

    Returns:
        ``runs`` and ``grid`` (pruned models trained, and in the grid), ``best`` (found), ``true_best``, ``found``
        (is it that one), ``first`` (was that one there from the start) and ``share`` (found over true throughput).
    """
    everything = points_of(points, task)
    others = [point for point in points if point.task != task]
    pruned = {key for key, point in everything.items() if point.sparsity > 0}
    done = set(everything) - pruned
    for n in {n for n, _ in pruned}:
        sparsities = [s for m, s in pruned if m == n]
        done |= {(n, min(sparsities)), (n, max(sparsities))}
    start = frozenset(done)
    while True:
        auto = AutoPruMUX([*others, *(everything[key] for key in done)], task, **options)
        left = sorted(set(everything) - done)
        suggestions = auto.next_runs(loss_budget, 1, left)
        best = auto.best_measured(loss_budget)
        if not suggestions or suggestions[0]["expected_gain"] < stop_below * best.throughput:
            break
        done.add((suggestions[0]["num_instances"], suggestions[0]["sparsity"]))
    true_best = AutoPruMUX(everything.values(), task).best_measured(loss_budget)
    return {
        "loss_budget": loss_budget,
        "runs": len(done & pruned),
        "grid": len(pruned),
        "best": best.key,
        "true_best": true_best.key,
        "found": best.key == true_best.key,
        "first": true_best.key in start,
        "share": best.throughput / true_best.throughput,
    }
