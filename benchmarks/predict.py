"""Text to logits with and without length bucketing: accuracy and examples/s of a trained model on its task.

    python benchmarks/predict.py out/SST-2/mux_2/best SST-2 --data_dir glue

Without bucketing is the paper's protocol, every row padded to 128 tokens in the order of the file. Tokenising is part
of the time.
"""

from __future__ import annotations

import argparse
import statistics
import time


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="folder of a trained classifier")
    add("task", help="its task")
    add("--data_dir", help="the task in GLUE's own files instead of from the hub")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "int8"])
    add("--batch_size", type=int, default=128, help="groups padded together (default 128)")
    add(
        "--groupings",
        type=int,
        default=20,
        help="orders of the rows over which accuracy is averaged (default 20)",
    )
    add("--repeats", type=int, default=3, help="timed repeats (default 3)")
    add("--json", metavar="PATH", help="write the rows")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from prumux import compile_for_inference
    from prumux.data.grouping import groupings
    from prumux.data.loading import load_task
    from prumux.evaluation.load import load_model
    from prumux.reports.provenance import provenance, write_json

    data = load_task(args.task, data_dir=args.data_dir, splits=("validation",))
    loaded = load_model(args.model)
    engine = compile_for_inference(loaded.model, args.dtype, tokenizer=loaded.tokenizer)
    assert data.validation is not None
    names = {name.lower(): i for name, i in loaded.model.config.label2id.items()}
    columns = data.validation.to_dict()
    texts = columns["text"]
    if "text_pair" in columns:
        texts = list(zip(texts, columns["text_pair"], strict=True))
    labels = np.array([names[str(label).lower()] for label in columns["label"]])
    rows = []
    for bucketing in (False, True):
        accuracies, speeds = [], []
        for order in groupings(len(texts), args.groupings if engine.num_instances > 1 else 1, 0):
            given = [texts[int(row)] for row in order]
            logits = engine.predict(given, args.batch_size, length_bucketing=bucketing, progress=False)
            accuracies.append(float((logits.argmax(1) == labels[order]).mean()))
        for _ in range(max(1, args.repeats)):
            start = time.perf_counter()
            engine.predict(texts, args.batch_size, length_bucketing=bucketing, progress=False)
            speeds.append(len(texts) / (time.perf_counter() - start))
        rows.append(
            {
                "length_bucketing": bucketing,
                "accuracy": statistics.mean(accuracies),
                "accuracy_std": statistics.pstdev(accuracies),
                "examples_per_second": statistics.median(speeds),
            }
        )
        print(
            f"length bucketing {'on ' if bucketing else 'off'}: accuracy {rows[-1]['accuracy']:.4f} "
            f"± {rows[-1]['accuracy_std']:.4f}, {rows[-1]['examples_per_second']:,.0f} examples/s"
        )
    if args.json:
        report = {"rows": rows, "settings": vars(args), "provenance": provenance(0)}
        print(f"written: {write_json(args.json, report)}")


if __name__ == "__main__":
    arguments = parse()
    from prumux.errors import guard

    guard(lambda: main(arguments))
