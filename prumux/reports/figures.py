"""The frontier figure: speedup over accuracy, one marker and line per method, the Pareto frontier drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prumux.errors import UserError
from prumux.reports.methods import FEWER_LAYERS, shown_sparsity
from prumux.reports.provenance import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

# method -> marker, line, colour: told apart by shape and line alone, and by lightness when printed in grey
STYLES: dict[str, dict[str, Any]] = {
    "dense": {"marker": "*", "linestyle": "none", "color": "black", "markersize": 12},
    "CoFi": {"marker": "s", "linestyle": "--", "color": "#08519c", "markersize": 7},
    "DataMUX": {"marker": "^", "linestyle": ":", "color": "#e6850e", "markersize": 8},
    "PruMUX": {"marker": "o", "linestyle": "-", "color": "#238b45", "markersize": 7},
    FEWER_LAYERS: {"marker": "D", "linestyle": "-.", "color": "0.55", "markersize": 6},
}
# where a label may be, in points from its marker, by preference: to the right, to the left, further off
LABEL_OFFSETS = [(x, y) for far in (0, 12, 24) for y in (6 + far, -14 - far) for x in (7 + far, -7 - far)]


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
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    metric: str = "accuracy",
    title: str | None = None,
    floor: tuple[str, float] | None = None,
) -> Path:
    """Draw the tradeoff of accuracy and speedup as a PNG or SVG; accuracy falls to the right, as in the paper's
    figures.

    Args:
        rows: mappings with ``method`` (a key of ``STYLES``), ``num_instances``, ``sparsity``, ``score`` (a
            fraction) and ``speedup``; rows without score or speedup are left out. Each point is labelled (N,
            s); a method's line and the grey frontier join the points that nothing (of the method, of all)
            beats.
        path: the file to write, ``.svg`` or else a PNG; folders are created.
        floor: name and score of what needs no encoder at all, drawn as a line.
        metric: name of the score on the axis.

    Raises:
        UserError: no row has both numbers, or the file can't be written.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise UserError(f"can't draw {path}: expected a name that ends in .png or .svg")
    drawn = [row for row in rows if row.get("score") is not None and row.get("speedup") is not None]
    if not drawn:
        raise UserError("nothing to plot: no row has both a score and a speedup")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(8.0, 5.5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    frontier = pareto_frontier(_point(row) for row in drawn)
    axes.plot(*zip(*frontier, strict=True), color="0.8", linewidth=7, zorder=0.9, label="Pareto frontier")
    for method, style in STYLES.items():
        points = [_point(row) for row in drawn if row["method"] == method]
        if points:
            marks: dict[str, Any] = {key: style[key] for key in ("marker", "color", "markersize")}
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
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if floor is not None:
        axes.axvline(100 * floor[1], color="0.3", linestyle=(0, (1, 3)), label=floor[0], zorder=1)
    axes.margins(x=0.12, y=0.15)
    axes.invert_xaxis()
    axes.set_xlabel(f"{metric} on the development set (%)", parse_math=False)
    axes.set_ylabel("speedup over the dense model (x, examples/s)")
    axes.set_title(title or "", parse_math=False)  # a task's name may hold dollars
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    legend = axes.legend(loc="best")
    canvas.draw()  # fixes the axes, so that labels can be placed
    _label(axes, drawn, legend.get_window_extent(), canvas.get_renderer())
    with atomic_file(path) as temporary:
        if Path(path).suffix.lower() == ".svg":
            with rc_context({"svg.hashsalt": "prumux"}):  # the same rows give the same file
                figure.savefig(temporary, format="svg", metadata={"Date": None})
        else:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def _where(row: Mapping[str, Any]) -> str:
    if row["method"] == FEWER_LAYERS:
        return f"{row['layers']} layer{'s' if row['layers'] != 1 else ''}"
    return f"({row['num_instances']}, {shown_sparsity(row['sparsity'])})"


def _point(row: Mapping[str, Any]) -> tuple[float, float]:
    return 100 * row["score"], row["speedup"]


def _label(axes: Axes, rows: Sequence[Mapping[str, Any]], legend: Bbox, renderer: Any) -> None:
    """Write (N, s) beside each point, at the first place inside the axes that covers no label or marker."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    marks = [axes.transData.transform(_point(row)) for row in rows]
    taken = [Bbox([mark - 10, mark + 10]) for mark in marks]  # pixels
    taken.append(legend)
    for row in rows:
        text = axes.annotate(
            _where(row),
            _point(row),
            xytext=LABEL_OFFSETS[0],
            textcoords="offset points",
            fontsize=8,
            zorder=4,
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        for x, y in LABEL_OFFSETS:
            text.set_position((x, y))
            text.set_horizontalalignment("left" if x > 0 else "right")
            text.update_positions(renderer)
            box = Text.get_window_extent(text)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
