"""Tests of prumux.reports.figures: the frontier, and what is drawn."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.axes
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from prumux.errors import UserError
from prumux.reports.figures import STYLES, pareto_frontier, plot_frontier
from prumux.reports.methods import PAPER


def row(method, num_instances, sparsity, score, speedup):
    return {
        "method": method,
        "num_instances": num_instances,
        "sparsity": sparsity,
        "score": score,
        "speedup": speedup,
    }


ROWS = [
    row("dense", 1, 0.0, 0.92, 1.0),
    row("CoFi", 1, 0.6, 0.91, 2.1),
    row("CoFi", 1, 0.9, 0.88, 5.0),
    row("DataMUX", 2, 0.0, 0.86, 1.9),
    row("PruMUX", 2, 0.6, 0.85, 4.1),
    row("PruMUX", 2, 0.9, 0.82, 9.0),
]


def test_frontier_of_known_points():
    points = [(90, 1), (85, 3), (85, 2), (86, 3), (80, 2.9), (70, 10), (90, 0.5)]
    assert pareto_frontier(points) == [(90, 1), (86, 3), (70, 10)]
    assert pareto_frontier([]) == []


def test_no_point_of_the_frontier_is_beaten():
    points = [(i * 37 % 101, i * 61 % 89) for i in range(60)]
    frontier = pareto_frontier(points)
    for point in points:
        beaten = any(a >= point[0] and s >= point[1] and (a, s) != point for a, s in frontier)
        assert beaten != (point in frontier)


@pytest.fixture
def axes(monkeypatch):
    """The axes that plot_frontier draws on."""
    made = []
    invert = matplotlib.axes.Axes.invert_xaxis

    def spy(self):
        made.append(self)
        return invert(self)

    monkeypatch.setattr(matplotlib.axes.Axes, "invert_xaxis", spy)
    return made


def test_the_figure_shows_every_point_with_its_label(tmp_path, axes):
    path = plot_frontier(ROWS, tmp_path / "new" / "frontier.png", title="SST-2")
    assert imread(path).shape[:2] == (825, 1200)
    (drawn,) = axes
    assert {text.get_text() for text in drawn.texts} == {
        f"({r['num_instances']}, {r['sparsity']:.2f})" for r in ROWS
    }
    assert drawn.xaxis_inverted()
    assert "accuracy" in drawn.get_xlabel()
    assert "%" in drawn.get_xlabel()
    assert "examples/s" in drawn.get_ylabel()
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["Pareto frontier", *PAPER]
    boxes = [Text.get_window_extent(text) for text in drawn.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert [p.name for p in path.parent.iterdir()] == ["frontier.png"]


def test_the_same_rows_give_the_same_file(tmp_path):
    first = plot_frontier(ROWS, tmp_path / "a.png").read_bytes()
    assert plot_frontier(ROWS, tmp_path / "b.png").read_bytes() == first


def test_a_title_is_no_formula(tmp_path, axes):
    plot_frontier(ROWS, tmp_path / "f.svg", metric="a$", title=r"a$b$ $\foo$")
    assert axes[0].get_title() == r"a$b$ $\foo$"


def test_methods_differ_without_colour():
    assert len({(style["marker"], style["linestyle"]) for style in STYLES.values()}) == len(STYLES)


def test_rows_without_numbers_are_left_out(tmp_path, axes):
    plot_frontier([*ROWS[:1], row("CoFi", 1, 0.5, None, 3.0)], tmp_path / "f.png")
    assert len(axes[0].texts) == 1
    with pytest.raises(UserError, match="nothing to plot"):
        plot_frontier([row("CoFi", 1, 0.5, None, 3.0)], tmp_path / "g.png")


def test_wide_ranges_are_logarithmic(tmp_path, axes):
    plot_frontier(ROWS, tmp_path / "f.png")
    plot_frontier([*ROWS, row("PruMUX", 10, 0.95, 0.75, 60.0)], tmp_path / "g.png")
    assert [a.get_yscale() for a in axes] == ["linear", "log"]


def test_a_file_that_can_not_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"):
        plot_frontier(ROWS, tmp_path / "file" / "f.png")


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, prumux.reports.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
