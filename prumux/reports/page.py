"""The results of a few tasks as one HTML page that needs nothing else: tables, the frontier plot, how it was made."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prumux.reports.figures import plot_frontier
from prumux.reports.provenance import atomic_file, provenance
from prumux.reports.tables import row_cells
from prumux.reports.thresholds import threshold_cells

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888; text-align: right } td { text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
footer { color: #666; font-size: 85%; margin-top: 2rem }
"""


def write_page(
    tasks: Mapping[str, tuple[Sequence[Mapping[str, Any]], str]],
    path: str | Path,
    floors: Mapping[str, tuple[str, float]] | None = None,
) -> Path:
    """Write the page.

    Args:
        tasks: name -> rows and the name of their score, as ``collect`` gives them.
        path: the HTML file. floors: by task, each as ``plot_frontier`` takes it.

    Raises:
        UserError: the file can't be written.
    """
    parts = [_section(task, rows, metric, (floors or {}).get(task)) for task, (rows, metric) in tasks.items()]
    made = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    page = "\n".join([
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', "<title>PruMUX: results</title>",
        f"<style>{STYLE}</style></head><body>", "<h1>PruMUX: accuracy and throughput</h1>", *parts,
        f"<footer><p>{html.escape(made['command'])}<br>{made['time']}<br>{html.escape(versions)}</p></footer>",
        "</body></html>",
    ])  # fmt: skip
    with atomic_file(path) as temporary:
        temporary.write_text(page + "\n", encoding="utf-8")
    return Path(path)


def _section(
    task: str, rows: Sequence[Mapping[str, Any]], metric: str, floor: tuple[str, float] | None
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        svg = plot_frontier(rows, Path(folder) / "frontier.svg", metric, title=task, floor=floor).read_text(
            encoding="utf-8"
        )
    svg = svg[svg.index("<svg") :]  # the XML declaration has no place inside a page
    header, cells = row_cells(rows, metric)
    best_header, best = threshold_cells(rows)
    thresholds = [
        "<h3>Best speedup for an accuracy that must be kept</h3>",
        _table(best_header, best),
        "<p>* the fastest method</p>",
    ]
    return "\n".join([
        f"<section><h2>{html.escape(task)}</h2>",
        f'<figure role="img" aria-label="speedup over {html.escape(metric)}, {html.escape(task)}">{svg}</figure>',
        "<p>Points are labelled (N, sparsity). Speedups are relative to the dense model, side by side.</p>",
        _table(header, cells), *(thresholds if best else []),
        "" if floor is None else f"<p>{html.escape(floor[0])}: {floor[1]:.3f}</p>",
        "</section>",
    ])  # fmt: skip


def _table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table>"
