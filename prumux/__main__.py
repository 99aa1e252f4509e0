"""The `prumux` command: everything that is not one of the scripts."""

from __future__ import annotations

import argparse
import logging
import sys

from prumux.auto.cli import add_commands
from prumux.errors import Parser, guard
from prumux.grid.cli import add_command
from prumux.reports.cli import add_report


def _quickstart(arguments: argparse.Namespace) -> str:
    from prumux.quickstart import quickstart
    from prumux.reports.tables import format_report

    report = quickstart(arguments.task, arguments.output_dir, arguments.seed, arguments.repeats)
    written = f"written: {arguments.output_dir}/results.json, {arguments.output_dir}/frontier.png"
    return f"{format_report(report)}\n{written}"


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
    add_report(commands)
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
