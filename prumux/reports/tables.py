"""Result rows as one aligned table, readable on a screen and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "-"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned Markdown, all columns to the left."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    body = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rule = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in [body[0], rule, *body[1:]])


def format_table(rows: Sequence[Mapping[str, Any]], metric: str = "accuracy") -> str:
    """Rows -> a Markdown table whose columns are aligned, first column to the left and numbers to the right.

    Args:
        rows: mappings with ``model`` (its name), ``num_instances``, ``sparsity`` (0 to 1; ``true_sparsity`` is
            shown instead where a row has it, because that one may be the target), ``parameters``, ``score`` (the
            task's main metric, a fraction) and optionally ``score_std``, ``examples_per_second``, ``speedup``. A
            value that is missing or None is shown as "-".
        metric: heading of the score's column.
    """
    header, lines = row_cells(rows, metric)
    cells = [header, *lines]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]])


def row_cells(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells of :func:`format_table`."""
    header = ["model", "N", "sparsity", "parameters", metric, "examples/s", "speedup"]
    return header, [_cells(row) for row in rows]


def format_report(report: Mapping[str, Any]) -> str:
    """A report of ``evaluate_candidates``, with its ``provenance``, as a table and its notes."""
    settings, made = report["settings"], report["provenance"]
    hardware, installed = made["hardware"], made["versions"]
    processor = hardware["cpu"] if settings["device"] == "cpu" else hardware["gpu"]
    padding = "the longest row" if settings["dynamic_padding"] else f"{settings['max_seq_length']} tokens"
    by_length = " by length" if settings.get("group_by_length") else ""
    lines = [format_table(report["rows"], report["main_metric"]), ""]
    for row in report["rows"]:
        lines.append(
            f"{row['model']}: {row['path'] or 'not trained, measured for its speed'}; "
            f"{row['parameters_without_embeddings']:,} parameters without embeddings; "
            f"{row['examples_per_second_min']:,.1f} to {row['examples_per_second_max']:,.1f} examples/s "
            f"over {row['repeats']} repeats of {row['passes']} x {row['rows']} rows"
        )
        if row.get("ensemble", 1) > 1:
            lines.append(
                f"  every input in {row['ensemble']} slots of the {row['num_instances']}, logits averaged"
            )
        if row.get("average_groupings", 1) > 1:
            lines.append(f"  logits averaged over {row['average_groupings']} groupings")
        extra = {name: value for name, value in row["metrics"].items() if not name.endswith("_std")}
        if len(extra) > 1:
            lines.append("  " + ", ".join(f"{name} {value:.3f}" for name, value in extra.items()))
    lines += [
        f"{report['main_metric']} on {report['task']}, development set, padded to {padding}, "
        f"{settings['num_groupings']} grouping(s){by_length}; throughput at {settings['max_seq_length']} tokens, "
        f"speedup over {report['baseline']}",
        f"{processor}, {settings['device']}, {settings['dtype']}, {hardware['threads']} thread(s), "
        f"engine {'torch.compile' if settings['compile'] else settings.get('engine', 'eager')}; "
        f"python {installed['python']}, "
        f"torch {installed['torch']}, transformers {installed['transformers']}",
    ]
    return "\n".join(lines)


def format_run(record: Mapping[str, Any]) -> str:
    """What a training or evaluation run of run_glue.py gave, in lines of ``name: value``."""
    metrics = {name: value for name, value in record["metrics"].items() if name != "step"}
    shown = {
        "task": record["task"],
        "setting": record["setting"],
        "inputs per mixture (N)": record["num_instances"],
        "sparsity": f"{record['sparsity']:.4f}",
        "parameters": f"{record['parameters']:,} ({record['parameters_without_embeddings']:,} without embeddings)",
        **{name: f"{value:.4f}" for name, value in metrics.items()},
        "seconds": record["seconds"],
    }
    width = max(len(name) for name in shown) + 2
    return "\n".join(f"{name + ':':<{width}}{value}" for name, value in shown.items())


def _cells(row: Mapping[str, Any]) -> list[str]:
    score = _number(row.get("score"), ".3f")
    if row.get("score_std"):
        score += f" ± {row['score_std']:.3f}"
    rate = row.get("examples_per_second")
    counted = row.get("true_sparsity")
    return [
        str(row.get("model", MISSING)).replace("|", "\\|"),
        _number(row.get("num_instances"), "d"),
        _number(row.get("sparsity") if counted is None else counted, ".3f"),
        _number(row.get("parameters"), ",d"),
        score,
        _number(rate, ",.0f" if rate is not None and rate >= 100 else ".1f"),
        _number(row.get("speedup"), ".2f", "x"),
    ]


def _number(value: float | int | None, style: str, unit: str = "") -> str:
    return MISSING if value is None else format(value, style) + unit
