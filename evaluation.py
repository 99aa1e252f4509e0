"""Accuracy, size and speed of a model beside a dense baseline: python evaluation.py TASK SPARSITY N."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> None:
        text = f"{message}: see {self.prog} --help"
        # only the nearest flag is worth the seconds that the package takes
        if message.startswith("unrecognized"):
            from prumux.errors import complaint

            text = complaint(self, message)
        self.exit(2, f"error: {text}\n")


def parse() -> argparse.Namespace:
    env = os.environ.get
    out = env("OUTPUT_DIR") or str(Path(__file__).resolve().parent / "out")
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "task",
        nargs="?",
        metavar="TASK",
        help="a GLUE task, NER, toy, toy-nli; any name with --validation_file",
    )
    add("sparsity", nargs="?", type=float, metavar="SPARSITY", help="target sparsity, 0 to 0.99")
    add("num_instances", nargs="?", type=int, metavar="N", help="inputs multiplexed into one")
    add("--model", metavar="PATH", help="evaluate this folder instead of searching OUTPUT_DIR")
    add(
        "--tokenizer",
        metavar="NAME_OR_PATH",
        help="for a model's folder without one (default bert-base-uncased)",
    )
    add("--output_dir", default=out, help="where models are searched (default out in the project)")
    add(
        "--data_dir",
        default=env("DATA_DIR"),
        help="the task in GLUE's own files (NER: CoNLL files) instead of from the hub",
    )
    add("--train_file", default=env("TRAIN_FILE"), help="your own CSV, TSV, JSON or CoNLL file")
    add("--validation_file", default=env("VALIDATION_FILE"), help="your own CSV, TSV, JSON or CoNLL file")
    add("--batch_size", type=int, default=128, help="groups in a batch, rows / N (default 128)")
    add("--max_seq_length", type=int, default=128, help="tokens (default 128)")
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "int8"],
        default="float32",
        help="default float32; int8 is of the engine",
    )
    add("--device", help="cpu, cuda, cuda:1 ... (default cuda if there is one)")
    add(
        "--engine",
        choices=["fast", "eager"],
        default="fast",
        help="fast: compiled (default); eager: the plain model",
    )
    add("--compile", action="store_true", help="time the plain model through torch.compile")
    add("--dynamic_padding", action="store_true", help="for accuracy pad to each batch's longest row only")
    add(
        "--ensemble",
        type=int,
        default=1,
        metavar="K",
        help="the same input in K of the N slots, logits averaged",
    )
    add(
        "--average_groupings",
        type=int,
        default=1,
        metavar="A",
        help="read the rows in A groupings and average their logits: more accuracy at 1/A of the speed",
    )
    add("--num_groupings", type=int, default=1, help="average accuracy over so many groupings (default 1)")
    add(
        "--group_by_length",
        action="store_true",
        help="group rows of similar length, as engine.predict does, not as they come",
    )
    add("--repeats", type=int, default=5, help="timed repeats (default 5)")
    add("--seed", type=int, default=0, help="of the groupings and the random tokens (default 0)")
    add(
        "--baseline",
        metavar="PATH_OR_CONFIG",
        help="a dense model's folder, or a config for random weights (default OUTPUT_DIR/TASK/dense/best if "
        "that has the model's shape, else random weights in that shape)",
    )
    add(
        "--json",
        metavar="PATH",
        help="result file (default evaluation.json beside the model, with --ensemble, --average_groupings and "
        "--group_by_length in its name)",
    )
    args = parser.parse_args()
    if args.model is None and None in (args.task, args.sparsity, args.num_instances):
        parser.error("give TASK SPARSITY N, or TASK --model PATH")
    if args.sparsity is not None and not 0 <= args.sparsity <= 0.99:
        parser.error(f"sparsity {args.sparsity:g} is outside [0, 0.99]")
    for name in ("num_instances", "batch_size", "max_seq_length", "ensemble", "average_groupings", "num_groupings",
                 "repeats"):  # fmt: skip
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"{name} is {getattr(args, name)}: give 1 or more")
    return args


def main(args: argparse.Namespace) -> None:
    from prumux.evaluation.report import Settings, evaluate_checkpoint, report_path, store_report
    from prumux.reports.provenance import provenance, write_json
    from prumux.reports.tables import format_report

    options = vars(args)
    target = options.pop("json")
    settings = Settings(**{name: options.pop(name) for name in Settings.__dataclass_fields__})
    report = evaluate_checkpoint(settings=settings, **options)
    report["provenance"] = provenance(settings.seed)
    print(format_report(report))
    print(f"written: {write_json(target or report_path(report), report)}")
    store_report(report, settings.seed, options["sparsity"])


if __name__ == "__main__":
    arguments = parse()  # before the heavy imports: --help and wrong arguments answer at once
    from prumux.errors import guard

    guard(lambda: main(arguments))
