"""The floor that every encoder must beat: TF-IDF of 1-2-grams with logistic regression on a task.

python benchmarks/tfidf.py SST-2 --data_dir glue
python benchmarks/tfidf.py SICK --train_file train.tsv --validation_file dev.tsv
"""

from __future__ import annotations

import argparse
import time


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("task", help="a task, or a name for your own files")
    add("--data_dir", help="the task in GLUE's own files instead of from the hub")
    add("--train_file", help="your own CSV, TSV or JSON file")
    add("--validation_file", help="your own CSV, TSV or JSON file")
    add("--C", type=float, default=10.0, help="inverse of the regularization (default 10)")
    add("--json", metavar="PATH", help="write the result")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from prumux.data.loading import load_task
    from prumux.reports.provenance import provenance, write_json

    data = load_task(
        None if args.train_file else args.task, args.data_dir, args.train_file, args.validation_file
    )
    assert data.train is not None
    assert data.validation is not None
    train, validation = data.train.to_dict(), data.validation.to_dict()
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=args.C, max_iter=1000))
    model.fit(texts(train), train["label"])
    rows = texts(validation)
    start = time.process_time()
    accuracy = model.score(rows, validation["label"])
    rate = len(rows) / (time.process_time() - start)
    print(f"{args.task}: accuracy {accuracy:.4f}, {rate:,.0f} examples/s of one core, text to label")
    if args.json:
        result = {"task": args.task, "accuracy": accuracy, "examples_per_second": rate, "rows": len(rows)}
        print(f"written: {write_json(args.json, result | {'provenance': provenance()})}")


def texts(columns: dict[str, list[str]]) -> list[str]:
    """One text per row; the sentences of a pair one after the other."""
    if "text_pair" not in columns:
        return columns["text"]
    return [f"{first} {second}" for first, second in zip(columns["text"], columns["text_pair"], strict=True)]


if __name__ == "__main__":
    arguments = parse()
    from prumux.errors import guard

    guard(lambda: main(arguments))
