"""The `prumux` command: everything that is not one of the scripts."""

from __future__ import annotations

import argparse
import logging
import sys

from prumux.auto.cli import add_commands
from prumux.errors import Parser, UserError, guard
from prumux.grid.cli import add_command


def _quickstart(arguments: argparse.Namespace) -> str:
    from prumux.quickstart import quickstart
    from prumux.reports.tables import format_report

    report = quickstart(arguments.task, arguments.output_dir, arguments.seed, arguments.repeats)
    written = f"written: {arguments.output_dir}/results.json, {arguments.output_dir}/frontier.png"
    return f"{format_report(report)}\n{written}"


FLOOR = "TF-IDF + logistic regression"  # what --floor is the score of
# what prumux.auto calls them
AS_POINTS = {"score": "accuracy", "score_std": "accuracy_std", "speedup": "throughput"}


def _report(arguments: argparse.Namespace) -> str:
    from prumux.reports.collect import collect, tasks_of
    from prumux.reports.figures import plot_frontier
    from prumux.reports.page import write_page
    from prumux.reports.provenance import atomic_file
    from prumux.reports.tables import format_table, markdown
    from prumux.reports.thresholds import threshold_cells

    floor = arguments.floor
    if floor is not None and not 0 <= floor <= 1:
        raise UserError(f"--floor is {floor:g}, expected a fraction from 0 to 1 (0.82, not 82)")
    if wrong := [path for path in arguments.plot or [] if not path.lower().endswith((".png", ".svg"))]:
        raise UserError(f"--plot {wrong[0]}: expected a name that ends in .png or .svg")
    names = [arguments.task] if arguments.task else tasks_of(arguments.reports)
    tasks = {}
    for name in names:
        rows, metric = collect(arguments.reports, name)
        tasks[rows[0]["task"]] = rows, metric
    parts = []
    for task, (rows, metric) in tasks.items():
        parts += [f"## {task}"] if len(tasks) > 1 else []
        parts.append(format_table(rows, metric))
        header, cells = threshold_cells(rows)
        if cells:
            parts += [
                "Best speedup for an accuracy that must be kept (* the fastest):",
                markdown(header, cells),
            ]
        parts += [] if floor is None else [f"{FLOOR}: {floor:.3f}"]
    text = "\n\n".join(parts)
    if arguments.plot and len(tasks) > 1:
        raise UserError(f"a plot shows one task, there are {', '.join(tasks)}: choose with --task")
    line = None if floor is None else (FLOOR, floor)
    written = []
    if arguments.markdown:
        with atomic_file(arguments.markdown) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        written.append(arguments.markdown)
    for path in arguments.plot or []:
        ((task, (rows, metric)),) = tasks.items()
        plot_frontier(rows, path, metric=metric, title=task, floor=line)
        written.append(path)
    if arguments.csv:
        import pandas as pd

        table = pd.DataFrame([row for rows, _ in tasks.values() for row in rows]).rename(columns=AS_POINTS)
        with atomic_file(arguments.csv) as temporary:
            table.to_csv(temporary, index=False)
        written.append(arguments.csv)
    if arguments.html:
        written.append(str(write_page(tasks, arguments.html, line)))
    return text + (f"\nwritten: {', '.join(written)}" if written else "")


def _convert(arguments: argparse.Namespace) -> str:
    from prumux.checkpoints.convert import convert_checkpoint

    report = convert_checkpoint(
        arguments.src, arguments.dst, task=arguments.task, tokenizer=arguments.tokenizer
    )
    return f"{report}\nwritten: {arguments.dst}"


def _export(arguments: argparse.Namespace) -> str:
    from prumux.evaluation.load import load_model
    from prumux.inference.export import FILE, export_onnx

    loaded = load_model(arguments.src, tokenizer=arguments.tokenizer)
    difference = export_onnx(loaded.model, arguments.dst, loaded.tokenizer)  # type: ignore[arg-type]
    checked = (
        "" if difference is None else f"ONNX Runtime's logits differ by {difference:.1e} from the model's\n"
    )
    return f"{checked}written: {arguments.dst}/{FILE}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command with its subcommands."""
    parser = Parser(
        prog="prumux", description="Structured pruning and data multiplexing for Transformer encoders."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    quickstart = commands.add_parser(
        "quickstart", help="the whole pipeline on an embedded task, in minutes on two CPU cores"
    )
    quickstart.add_argument(
        "--task", default="toy", help="toy (one sentence) or toy-nli (pairs); default toy"
    )
    quickstart.add_argument("--output_dir", default="out/quickstart", help="default out/quickstart")
    quickstart.add_argument("--seed", type=int, default=57)
    quickstart.add_argument(
        "--repeats", type=int, default=5, help="timed repeats of the throughput measurement"
    )
    quickstart.set_defaults(run=_quickstart)
    report = commands.add_parser(
        "report", help="tables, the frontier plot and a page from results stores or evaluation.json files"
    )
    report.add_argument(
        "reports",
        nargs="+",
        metavar="RESULTS",
        help="runs.jsonl, evaluation.json files, or a CSV file of points",
    )
    report.add_argument("--task", help="which, where there are several (default: all; a plot needs one)")
    report.add_argument(
        "--plot", action="append", metavar="PATH", help="draw the accuracy/speedup frontier, .png or .svg"
    )
    report.add_argument(
        "--floor", type=float, metavar="SCORE", help="draw what benchmarks/tfidf.py reached as a line"
    )
    report.add_argument("--markdown", metavar="PATH", help="write the tables")
    report.add_argument("--csv", metavar="PATH", help="write the rows, for `prumux auto` and others")
    report.add_argument("--html", metavar="PATH", help="write a page with tables and plots")
    report.set_defaults(run=_report)
    add_commands(commands)
    add_command(commands)
    convert = commands.add_parser(
        "convert",
        help="a checkpoint of DataMUX, MUX-PLM, CoFi or PruMUX's authors as a folder for from_pretrained",
    )
    convert.add_argument("src", metavar="SRC", help="folder, or name on the hub")
    convert.add_argument("dst", metavar="DST", help="folder to write")
    convert.add_argument("--task", help="names the classes, where the checkpoint does not")
    convert.add_argument("--tokenizer", metavar="NAME_OR_PATH", help="where SRC has no tokenizer")
    convert.set_defaults(run=_convert)
    export = commands.add_parser("export", help="a trained classifier for other runtimes")
    export.add_argument("src", metavar="SRC", help="a model's folder")
    export.add_argument("dst", metavar="DST", help="folder to write")
    export.add_argument("--format", choices=["onnx"], default="onnx", help="default onnx")
    export.add_argument("--tokenizer", metavar="NAME_OR_PATH", help="where SRC has no tokenizer")
    export.set_defaults(run=_export)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console command."""

    def run() -> None:
        arguments = build_parser().parse_args(argv)
        logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
        logging.getLogger("prumux").setLevel(logging.INFO)
        print(arguments.run(arguments))  # the only print of the package's commands

    guard(run)


if __name__ == "__main__":
    main()
