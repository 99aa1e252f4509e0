"""The frontier figure: speedup over accuracy, one marker and line per method, the Pareto frontier drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prumux.errors import UserError
from prumux.reports.provenance import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# method -> marker, line, colour: told apart by shape and line alone, and by lightness when printed in grey
STYLES = {
    "dense": {"marker": "*", "linestyle": "none", "color": "black", "markersize": 13},
    "CoFi": {"marker": "s", "linestyle": "--", "color": "#08519c", "markersize": 7},
    "DataMUX": {"marker": "^", "linestyle": ":", "color": "#e6850e", "markersize": 8},
    "PruMUX": {"marker": "o", "linestyle": "-", "color": "#238b45", "markersize": 7},
}
LABEL_OFFSETS = [
    (6, 6),
    (6, -13),
    (-6, 6),
    (-6, -13),
    (6, 18),
    (6, -25),
    (-6, 18),
    (-6, -25),
]  # points, by preference


def pareto_frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in accuracy and speedup at once, by falling accuracy.

    Args:
        points: (accuracy, speedup) pairs, more is better in both.
    """
    frontier: list[tuple[float, float]] = []
    for accuracy, speedup in sorted(points, reverse=True):
        if not frontier or speedup > frontier[-1][1]:
            frontier.append((accuracy, speedup))
    return frontier


def plot_frontier(
    rows: Sequence[Mapping[str, Any]], path: str | Path, metric: str = "accuracy", title: str | None = None
) -> Path:
    """Draw the tradeoff of accuracy and speedup as a PNG; accuracy falls to the right, as in the paper's
    figures.

    Args:
        rows: mappings with ``method`` (a key of ``STYLES``), ``num_instances``, ``sparsity``, ``score`` (a
            fraction) and ``speedup``; rows without score or speedup are left out. Each point is labelled (N,
            s); a method's line and the grey frontier join the points that nothing (of the method, of all)
            beats.
        path: the file to write; folders are created.
        metric: name of the score on the axis.

    Raises:
        UserError: no row has both numbers, or the file can't be written.
    """
    drawn = [row for row in rows if row.get("score") is not None and row.get("speedup") is not None]
    if not drawn:
        raise UserError("nothing to plot: no row has both a score and a speedup")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    frontier = pareto_frontier(_point(row) for row in drawn)
    axes.plot(*zip(*frontier, strict=True), color="0.8", linewidth=7, zorder=1, label="Pareto frontier")
    for method, style in STYLES.items():
        points = [_point(row) for row in drawn if row["method"] == method]
        if points:
            marks = {key: style[key] for key in ("marker", "color", "markersize")}
            axes.plot(
                *zip(*pareto_frontier(points), strict=True),
                color=style["color"],
                linestyle=style["linestyle"],
            )
            axes.plot(
                *zip(*points, strict=True), **marks, linestyle="none", markeredgecolor="black", zorder=3
            )
            axes.plot([], [], **marks, linestyle=style["linestyle"], markeredgecolor="black", label=method)
    speedups = [row["speedup"] for row in drawn]
    if max(speedups) > 12 * min(speedups):
        axes.set_yscale("log")
    axes.margins(x=0.12, y=0.15)
    axes.invert_xaxis()
    axes.set_xlabel(f"{metric} on the development set (%)")
    axes.set_ylabel("speedup over the dense model (x, examples/s)")
    axes.set_title(title or "")
    axes.grid(True, color="0.9")
    axes.legend(loc="best")
    figure.canvas.draw()  # fixes the axes, so that labels can be placed
    _label(axes, drawn)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def _point(row: Mapping[str, Any]) -> tuple[float, float]:
    return 100 * row["score"], row["speedup"]


def _label(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write (N, s) at each point, at the first place where it covers no other label or marker."""
    taken = [axes.get_legend().get_window_extent()] if axes.get_legend() else []
    marks = [axes.transData.transform(_point(row)) for row in rows]
    for row in rows:
        text = axes.annotate(
            f"({row['num_instances']}, {row['sparsity']:.2f})",
            _point(row),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            zorder=4,
        )
        box = None
        for dx, dy in LABEL_OFFSETS:
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken) and not any(
                box.contains(*mark) for mark in marks
            ):
                break
        taken.append(box)
