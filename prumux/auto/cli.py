"""`prumux auto fit|predict|next|table`: the commands of Auto-PruMUX."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prumux.reports.methods import shown_sparsity

if TYPE_CHECKING:  # scipy is imported when a command needs it
    from prumux.auto.points import Point
    from prumux.auto.search import AutoPruMUX


def add_commands(commands: Any) -> None:
    """Add ``auto`` and its subcommands to the parser's ``commands``."""
    auto = commands.add_parser(
        "auto", help="Auto-PruMUX: which (N, sparsity) is fastest within an accuracy budget"
    )
    kinds = auto.add_subparsers(dest="auto", required=True, metavar="ACTION")

    def sub(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = kinds.add_parser(name, help=text, description=text)
        parser.add_argument(
            "results", nargs="+", metavar="RESULTS",
            help="results stores (runs.jsonl) or CSV files with task,num_instances,sparsity,accuracy,throughput",
        )  # fmt: skip
        parser.add_argument("--task", help="needed where the results have several")
        parser.add_argument(
            "--throughput_task", help="whose throughputs stand for all tasks (default: each its own)"
        )
        parser.add_argument(
            "--throughput_model", default="measured", metavar="KIND",
            help="measured (exact at the measured points, default) or latency (from counts of operations)",
        )  # fmt: skip
        parser.add_argument(
            "--json", metavar="PATH", help="write the numbers; - prints them instead of the table"
        )
        parser.set_defaults(run=action)
        return parser

    def budget(parser: argparse.ArgumentParser, **options: Any) -> None:
        parser.add_argument(
            "--loss_budget",
            type=float,
            metavar="POINTS",
            help="points of accuracy that may be lost",
            **options,
        )

    sub("fit", "how far the models can be trusted: leave-one-out errors", _fit)
    predict = sub("predict", "the candidates of highest throughput within the budget", _predict)
    budget(predict, required=True)
    predict.add_argument("--top", type=int, default=3, help="how many (default 3)")
    predict.add_argument("--num_instances", type=int, nargs="+", metavar="N", help="candidates")
    predict.add_argument("--sparsity", type=float, nargs="+", metavar="S", help="candidates")
    predict.add_argument("--extrapolate", action="store_true", help="also outside the measured points")
    following = sub("next", "which (N, sparsity) to train next for the largest expected gain", _next)
    budget(following, required=True)
    following.add_argument("--top", type=int, default=3, help="how many (default 3)")
    following.add_argument(
        "--replay",
        action="store_true",
        help="search the measured grid as if it were not: how many runs it takes",
    )
    table = sub("table", "the paper's table 1, 2 or 3 from these results", _table)
    table.add_argument("--number", type=int, choices=[1, 2, 3], required=True)
    budget(table, default=3.0)
    table.add_argument("--top", type=int, default=3, help="predictions that count (default 3)")
    table.add_argument(
        "--train_sparsity", type=float, nargs="+", metavar="S",
        help="fit to the PruMUX points of these sparsities (default: predict each by leaving it out)",
    )  # fmt: skip


def _build(arguments: argparse.Namespace, points: Sequence[Point], task: str) -> AutoPruMUX:
    from prumux.auto.search import AutoPruMUX

    return AutoPruMUX(
        points,
        task,
        throughput_task=arguments.throughput_task,
        throughput_model=arguments.throughput_model,
    )


def _asked(arguments: argparse.Namespace) -> list[str] | None:
    """The tasks that the command names."""
    named = [task for task in (arguments.task, getattr(arguments, "throughput_task", None)) if task]
    return named if arguments.task else None


def _fitted(arguments: argparse.Namespace) -> tuple[list[Point], AutoPruMUX]:
    from prumux.auto.points import choose_task, read_points

    points = read_points(arguments.results, _asked(arguments))
    return points, _build(arguments, points, choose_task(points, arguments.task))


def _give(arguments: argparse.Namespace, table: str, values: dict[str, Any]) -> str:
    """What to print: the table or the numbers; they are written where that was asked for."""
    from prumux.reports.provenance import provenance, write_json

    if arguments.json == "-":
        return json.dumps(values, indent=2)
    if arguments.json:
        table += f"\nwritten: {write_json(arguments.json, values | {'provenance': provenance()})}"
    return table


def _fit(arguments: argparse.Namespace) -> str:
    from prumux.auto.points import choose_task, read_points
    from prumux.reports.tables import markdown

    points = read_points(arguments.results, _asked(arguments))
    tasks = (
        sorted({p.task for p in points}) if arguments.task is None else [choose_task(points, arguments.task)]
    )
    rows: list[list[str]] = []
    values: dict[str, Any] = {}
    for task in tasks:
        model = _build(arguments, points, task)
        left, quality = model.left_out(), model.quality()
        for r in left:
            rows.append([
                task, str(r.num_instances), shown_sparsity(r.sparsity), f"{r.accuracy:.4f}",
                f"{r.predicted_accuracy:.4f}",
                f"{r.throughput:.1f}", f"{r.predicted_throughput:.1f}",
            ])  # fmt: skip
        values[task] = quality | {
            "accuracy_error": model.accuracy_error(), "left_out": [asdict(r) for r in left],
        }  # fmt: skip
    lines = [markdown(["task", "N", "s", "accuracy", "left out", "throughput", "left out"], rows), ""]
    for task, value in values.items():
        lines.append(
            f"{task}: {value['points']} PruMUX points; accuracy within 1.5 points {value['M_A']:.1%}, throughput "
            f"within 20 % {value['M_T']:.1%}; standard error of an accuracy {100 * value['accuracy_error']:.1f} points"
        )
    return _give(arguments, "\n".join(lines), values)


def _predict(arguments: argparse.Namespace) -> str:
    from prumux.reports.tables import markdown

    _, model = _fitted(arguments)
    predictions = model.predict(
        arguments.loss_budget,
        arguments.top,
        num_instances=arguments.num_instances,
        sparsity=arguments.sparsity,
        extrapolate=arguments.extrapolate,
    )
    threshold = model.threshold(arguments.loss_budget)
    rows = [
        [str(i), p.method, str(p.num_instances), shown_sparsity(p.sparsity),
         f"{p.accuracy:.4f}" + (f" ± {p.accuracy_error:.4f}" if p.accuracy_error else ""),
         f"{p.throughput:.1f}x" + (f" ± {p.throughput_error:.1f}" if p.throughput_error else ""),
         "measured" if p.measured else "predicted"]
        for i, p in enumerate(predictions, start=1)
    ]  # fmt: skip
    table = markdown(["top", "method", "N", "s", "accuracy", "throughput", ""], rows)
    text = (
        f"{table}\n\n{model.task}: accuracy of at least {threshold:.4f}, {arguments.loss_budget:g} points below the "
        f"dense model's {model.baseline.accuracy:.4f}; throughput relative to it{_assumed(model)}"
    )
    return _give(arguments, text, {
        "task": model.task, "loss_budget": arguments.loss_budget, "threshold": threshold,
        "predictions": [asdict(p) for p in predictions],
    })  # fmt: skip


def _next(arguments: argparse.Namespace) -> str:
    from prumux.auto.replay import replay
    from prumux.auto.search import BUDGETS, WORTH_IT
    from prumux.reports.tables import markdown

    points, model = _fitted(arguments)
    if arguments.replay:
        budgets = sorted({arguments.loss_budget, *BUDGETS})
        options = {"throughput_task": model.throughput_task, "throughput_model": arguments.throughput_model}
        replays = [replay(points, model.task, budget, **options) for budget in budgets]
        rows = [
            [f"{r['loss_budget']:g}", f"{r['runs']} of {r['grid']}", _key(r["best"]), f"{r['share']:.0%}",
             _key(r["true_best"]) + (" *" if r["first"] else "")]
            for r in replays
        ]  # fmt: skip
        header = ["budget (points)", "pruned models", "best found", "of the best throughput", "true best"]
        text = f"{markdown(header, rows)}\n\n* trained in any case, to begin with"
        return _give(arguments, text, {"task": model.task, "replays": replays})
    runs = model.next_runs(arguments.loss_budget, arguments.top)
    rows = [
        [str(r["num_instances"]), shown_sparsity(r["sparsity"]), f"{r['accuracy']:.4f} ± {r['accuracy_error']:.4f}",
         f"{r['throughput']:.1f}x ± {r['throughput_error']:.1f}", f"{r['probability']:.0%}",
         f"{r['expected_gain']:.2f}x"]
        for r in runs
    ]  # fmt: skip
    best = model.best_measured(arguments.loss_budget)
    table = markdown(["N", "s", "accuracy", "throughput", "meets the budget", "expected gain"], rows)
    text = f"{table}\n\nbest measured within the budget: {_key(best.key)} with {best.throughput:.1f}x{_assumed(model)}"
    if not runs or runs[0]["expected_gain"] < WORTH_IT * best.throughput:
        text += (
            f"\nnothing is expected to gain {WORTH_IT:.0%} of that: keep it, or allow a larger --loss_budget"
        )
    return _give(arguments, text, {"task": model.task, "best_measured": asdict(best), "next": runs})


def _assumed(model: AutoPruMUX) -> str:
    """What to add where errors were not measured."""
    return "" if model.left_out() else "; errors are assumed: too few points to leave one out"


def _key(key: Sequence[float]) -> str:
    return f"({key[0]:g}, {shown_sparsity(key[1])})"


def _table(arguments: argparse.Namespace) -> str:
    from prumux.auto.points import choose_task, read_points
    from prumux.auto.tables import tables

    points = read_points(arguments.results, _asked(arguments))
    chosen = [] if arguments.task is None else [choose_task(points, arguments.task)]
    text, values = tables(
        points, lambda task: _build(arguments, points, task), arguments.number,
        loss_budget=arguments.loss_budget, top=arguments.top, train_sparsity=arguments.train_sparsity, chosen=chosen,
    )  # fmt: skip
    return _give(arguments, text, values)
