"""The best speedup of each method for an accuracy that must be kept (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prumux.reports.methods import METHODS, shown_sparsity

LOSSES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0)  # points below the dense model
SLACK = 1e-9


def best_by_threshold(
    rows: Sequence[Mapping[str, Any]], losses: Sequence[float] = LOSSES
) -> list[dict[str, Any]]:
    """For each loss of accuracy in points: the threshold, and each method's fastest row that meets it.

    Args:
        rows: as ``collect`` gives them, the dense baseline first.

    Returns:
        ``loss``, ``threshold`` and, per method that occurs, its row or ``None``. Nothing where the baseline has no
        score (it was not trained).
    """
    base = rows[0]["score"]
    if base is None:
        return []
    rows = [row for row in rows if row["score"] is not None]
    methods = [method for method in METHODS[1:] if any(row["method"] == method for row in rows)]
    table = []
    for loss in losses:
        threshold = base - loss / 100
        line: dict[str, Any] = {"loss": loss, "threshold": threshold}
        for method in methods:
            within = [
                row
                for row in rows
                if row["method"] == method
                and row["speedup"] is not None
                and row["score"] >= threshold - SLACK
            ]
            line[method] = max(within, key=lambda row: row["speedup"], default=None)
        table.append(line)
    return table


def threshold_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of :func:`best_by_threshold` as text, the fastest method of a line marked with an asterisk."""
    table = best_by_threshold(rows)
    methods = [name for name in (table[0] if table else {}) if name not in ("loss", "threshold")]
    cells = []
    for line in table:
        best = max((line[m]["speedup"] for m in methods if line[m] is not None), default=None)
        cells.append(
            [f"{line['threshold']:.3f} (-{line['loss']:g})", *(_cell(line[m], best) for m in methods)]
        )
    return ["accuracy of at least (points lost)", *methods], cells


def _cell(row: Mapping[str, Any] | None, best: float | None) -> str:
    if row is None:
        return "-"
    where = f"({row['num_instances']}, {shown_sparsity(row['sparsity'])})"
    if row.get("layers") is not None and row["method"] not in ("CoFi", "DataMUX", "PruMUX"):
        where = f"({row['layers']} layer{'s' if row['layers'] != 1 else ''})"
    return f"{row['speedup']:.1f}x {where}{' *' if row['speedup'] == best else ''}"
