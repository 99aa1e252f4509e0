"""Speeds measured side by side take the place of those in a store, and go on to Auto-PruMUX as a CSV file."""

from __future__ import annotations

import json

import pytest

from prumux import UserError
from prumux.__main__ import main
from prumux.auto.points import read_points
from prumux.reports.collect import collect
from prumux.reports.store import append

CONDITIONS = {"engine": "fast", "dtype": "float32", "device": "cpu", "length": 128}


@pytest.fixture
def store(tmp_path):
    """A dense model, a rival, a pruned and two PruMUX models, whose own speedups are all 3."""
    file = tmp_path / "runs.jsonl"
    for name, n, s, layers in (("dense", 1, 0.0, 6), ("first", 1, 0.0, 2), ("cofi", 1, 0.6, 6), ("a", 2, 0.6, 6),
                               ("b", 2, 0.9, 6)):  # fmt: skip
        method = {"dense": "dense", "first": "fewer layers", "cofi": "CoFi"}.get(name, "PruMUX")
        append("evaluation", CONDITIONS | {
            "task": "T", "method": method, "layers": layers, "num_instances": n, "sparsity": s, "parameters": 1000,
            "true_sparsity": s, "accuracy": 0.9 - 0.02 * n - s / 10, "accuracy_std": 0.01, "operations": 1e6 * (1 - s),
            "speedup": 1.0 if name == "dense" else 3.0, "examples_per_second": 30.0, "path": f"out/{name}/best",
        }, 0, file)  # fmt: skip
    return file


def timed(file, names, **changes):
    rows = [
        CONDITIONS
        | {
            "name": name,
            "examples_per_second": 10.0 * i,
            "ratios": {"fast_float32": float(i), "hf_float32": 9.0},
        }
        | changes
        for i, name in enumerate(names, start=1)
    ]
    file.write_text(json.dumps({"rows": rows}))
    return file


def test_the_benchmarks_speeds_count(store, tmp_path):
    speeds = timed(
        tmp_path / "speeds.json", ["dense", *(f"out/{x}/best" for x in ("first", "cofi", "a", "b"))]
    )
    rows, _ = collect([store], "T", [speeds])
    assert [(row["model"], row["speedup"]) for row in rows] == [
        ("dense", 1.0),
        ("first 2 layers", 2.0),
        ("CoFi (1, 0.60)", 3.0),
        ("PruMUX (2, 0.60)", 4.0),
        ("PruMUX (2, 0.90)", 5.0),
    ]
    assert rows[1]["examples_per_second"] == 20.0


def test_a_report_as_csv_gives_the_same_report_and_points(store, tmp_path, capsys):
    csv = tmp_path / "rows.csv"
    main(["report", str(store), "--csv", str(csv)])
    first = capsys.readouterr().out
    main(["report", str(csv)])
    assert first.startswith(capsys.readouterr().out.rstrip("\n")), (
        "rivals, spreads and parameters are in both"
    )
    points = {point.key: point for point in read_points(csv)}
    assert points[2, 0.9].operations == pytest.approx(1e5)
    assert set(points) == {(1, 0.0), (1, 0.6), (2, 0.6), (2, 0.9)}, "no rivals"


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"length": 64}, {"engine": "hf"}])
def test_a_model_that_was_not_timed_alike_is_named(store, tmp_path, changes):
    names = ["dense", *(f"out/{x}/best" for x in ("first", "cofi", "a", "b"))]
    with pytest.raises(UserError, match=r"has no speed of out/dense/best \(fast, float32, cpu, 128\)"):
        collect([store], "T", [timed(tmp_path / "speeds.json", names, **changes)])
    with pytest.raises(UserError, match="has no speed of out/b/best"):
        collect([store], "T", [timed(tmp_path / "speeds.json", names[:-1])])


@pytest.mark.parametrize("text", ["{}", "[]", '{"rows": [{"name": "x"}]}', "not JSON"])
def test_what_is_no_benchmark_is_named(store, tmp_path, text):
    (tmp_path / "speeds.json").write_text(text)
    with pytest.raises(UserError, match="holds no timed models: expected a file that benchmarks"):
        collect([store], "T", [tmp_path / "speeds.json"])
    with pytest.raises(UserError, match="can't read"):
        collect([store], "T", [tmp_path / "missing.json"])


def test_speeds_go_with_a_store(store, tmp_path):
    (tmp_path / "points.csv").write_text("task,num_instances,sparsity,accuracy,throughput\nT,1,0,0.9,1\n")
    with pytest.raises(UserError, match="--speeds goes with a results store"):
        collect([tmp_path / "points.csv"], "T", [tmp_path / "speeds.json"])
