"""Several evaluation reports in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prumux import UserError
from prumux.__main__ import main
from prumux.reports.collect import collect
from prumux.reports.store import append
from prumux.reports.tables import format_table


def write(path, task: str, name: str, speedup: float):
    def row(model: str, n: int, s: float, x: float) -> dict:
        return {
            "model": model, "method": "dense" if n == 1 else "PruMUX", "num_instances": n, "sparsity": s,
            "parameters": 1000, "score": 0.9, "examples_per_second": 100 * x, "speedup": x,
        }  # fmt: skip

    report = {
        "task": task, "main_metric": "accuracy", "baseline": "dense",
        "rows": [row("dense", 1, 0.0, 1.0), row(name, 2, 0.6, speedup)],
    }  # fmt: skip
    path.write_text(json.dumps(report))
    return str(path)


def test_one_baseline_then_the_models_by_speedup(tmp_path, capsys):
    files = [write(tmp_path / f"{i}.json", "toy", f"m{i}", speed) for i, speed in enumerate((4.0, 2.0))]
    rows, metric = collect(files)
    assert [row["model"] for row in rows] == ["dense", "m1", "m0"]
    assert metric == "accuracy"
    main(["report", *files, "--plot", str(tmp_path / "plot.png")])
    assert "4.00x" in capsys.readouterr().out
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_what_is_no_report_is_named(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(UserError, match=r"bad.json is no evaluation report"):
        collect([bad])
    with pytest.raises(UserError, match="can't read"):
        collect([tmp_path / "missing.json"])
    mixed = [write(tmp_path / "a.json", "toy", "m", 2.0), write(tmp_path / "b.json", "SST-2", "m", 2.0)]
    with pytest.raises(UserError, match=r"different tasks \(SST-2, toy\)"):
        collect(mixed)


def test_models_that_were_grouped_differently_are_not_joined(tmp_path):
    files = [write(tmp_path / f"{i}.json", "toy", f"m{i}", 2.0 + i) for i in range(2)]
    for file in files:
        report = json.loads(Path(file).read_text())
        Path(file).write_text(json.dumps(report | {"settings": {"group_by_length": file == files[1]}}))
    with pytest.raises(UserError, match="grouped differently"):
        collect(files)
    assert len(collect(files[1:])[0]) == 2


def test_a_store_and_a_table_of_the_same_models(tmp_path):
    store, table = tmp_path / "runs.jsonl", tmp_path / "points.csv"
    for n, s, accuracy, speedup in ((1, 0.0, 0.9, 1.0), (2, 0.6, 0.8123, 4.5)):
        fields = {"task": "T", "num_instances": n, "sparsity": s, "accuracy": accuracy, "speedup": speedup}
        append("evaluation", fields, 0, store)
    header = "task,num_instances,sparsity,accuracy,throughput\n"
    table.write_text(header + "T,1,0,0.9,1\nT,2,0.6,0.812,4.5\nT,5,0.6,0.7,9\n")
    assert [(row["num_instances"], row["score"]) for row in collect([store, table])[0]] == [
        (1, 0.9),
        (2, 0.8123),
        (5, 0.7),
    ]
    table.write_text(header + "T,1,0,0.9,1\nT,2,0.6,0.7,4.5\n")
    with pytest.raises(UserError, match="disagree about T PruMUX"):
        collect([store, table])


def test_the_table_has_the_sparsity_that_was_counted(tmp_path):
    store = tmp_path / "runs.jsonl"
    fields = {"task": "T", "accuracy": 0.8, "speedup": 4.0}
    append("evaluation", fields | {"num_instances": 1, "sparsity": 0.0}, 0, store)
    for seed, counted in ((1, 0.597), (2, 0.599)):
        pruned = {"num_instances": 2, "sparsity": 0.6, "true_sparsity": counted, "train_seed": seed}
        append("evaluation", fields | pruned, 0, store)
    row = collect([store])[0][-1]
    assert row["sparsity"] == 0.6
    assert "|   2 |    0.598 |" in format_table([row])


def test_a_baseline_that_was_not_trained_sets_no_threshold(tmp_path, capsys):
    file = tmp_path / "a.json"
    report = json.loads(Path(write(file, "toy", "m", 2.0)).read_text())
    report["rows"][0]["score"] = None
    file.write_text(json.dumps(report))
    main(["report", str(file), "--html", str(tmp_path / "page.html")])
    assert "2.00x" in (out := capsys.readouterr().out)
    assert "must be kept" not in out + (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--floor 82", "expected a fraction"),
        ("--floor nan", "expected a fraction"),
        ("--floor toy=82", "expected a fraction"),
        ("--floor SST-2=0.8", "no results of task SST-2"),
        ("--plot x.pdf", "ends in .png or .svg"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, capsys, flags, message):
    file, page = write(tmp_path / "a.json", "toy", "m", 2.0), tmp_path / "report.md"
    page.write_text("good")
    with pytest.raises(SystemExit):
        main(["report", file, "--markdown", str(page), *flags.split()])
    assert message in capsys.readouterr().err
    assert page.read_text() == "good"


def test_the_floor_is_in_tables_and_page(tmp_path):
    file = write(tmp_path / "a.json", "toy", "m", 2.0)
    main(
        [
            "report",
            file,
            "--floor",
            "0.823",
            "--markdown",
            str(tmp_path / "a.md"),
            "--html",
            str(tmp_path / "a.html"),
        ]
    )
    for name in ("a.md", "a.html"):
        assert "TF-IDF + logistic regression: 0.823" in (tmp_path / name).read_text(encoding="utf-8")


def test_a_floor_is_of_one_task(tmp_path, capsys):
    store = tmp_path / "runs.jsonl"
    for task in ("A", "B"):
        for n, s in ((1, 0.0), (2, 0.6)):
            fields = {"task": task, "num_instances": n, "sparsity": s, "accuracy": 0.9, "speedup": 1.0 + s}
            append("evaluation", fields, 0, store)
    page = tmp_path / "a.html"
    main(["report", str(store), "--floor", "a=0.7", "--floor", "B=0.6", "--html", str(page)])
    assert capsys.readouterr().out.count("logistic regression: 0.") == 2
    assert page.read_text().count("logistic regression: 0.700") == 1
    with pytest.raises(SystemExit):
        main(["report", str(store), "--floor", "0.7"])
    assert "give --floor TASK=0.7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_instances": "x"}, "num_instances is 'x'"),
        ({"score": 90.0}, "a percentage"),
        ({"speedup": float("nan")}, "speedup is nan"),
        ({"method": [1]}, "method is"),
        ({"sparsity": 60}, "sparsity is 60"),
    ],
)
def test_values_that_no_evaluation_has(tmp_path, capsys, change, message):
    file = Path(write(tmp_path / "a.json", "toy", "m", 2.0))
    report = json.loads(file.read_text())
    report["rows"][1] |= change
    file.write_text(json.dumps(report))
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(file)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_task_that_is_no_name(tmp_path):
    file = Path(write(tmp_path / "a.json", "toy", "m", 2.0))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": ["A"]}))
    with pytest.raises(UserError, match="is no evaluation report"):
        collect([file])
