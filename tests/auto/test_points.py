"""Results files: what is read from them, and the line that says what is wrong with one."""

from __future__ import annotations

import json

import pytest

from prumux.auto.points import points_of, read_points
from prumux.errors import UserError
from prumux.reports.methods import method_name
from prumux.reports.store import append

HEADER = "task,num_instances,sparsity,accuracy,throughput\n"
DENSE = "A,1,0,0.9,1\n"


def written(tmp_path, text, name="results.csv"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_a_csv_file(tmp_path):
    file = written(tmp_path, HEADER + "A,2,0.6,0.85,4.5\n" + DENSE + "B,1,0,0.8,1\n")
    points = read_points(file)
    assert [(p.task, *p.key, p.accuracy, p.throughput) for p in points] == [
        ("A", 1, 0.0, 0.9, 1.0), ("A", 2, 0.6, 0.85, 4.5), ("B", 1, 0.0, 0.8, 1.0),
    ]  # fmt: skip
    assert set(points_of(points, "A")) == {(1, 0.0), (2, 0.6)}
    with pytest.raises(UserError, match="no results of task C: there are results of A, B"):
        points_of(points, "C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,num_instances,accuracy,throughput\nA,1,0.9,1\n", "has no column sparsity: expected task"),
        (HEADER, "has no rows"),
        (HEADER + DENSE + "A,2,0.6,,4\n", "row 2: accuracy is '', expected a number"),
        (HEADER + DENSE + "A,2,0.6,nan,4\n", "row 2: accuracy is 'nan', expected a number"),
        (HEADER + DENSE + "A,2,0.6,good,4\n", "row 2: accuracy is 'good', expected a number"),
        (HEADER + DENSE + ",2,0.6,0.8,4\n", "row 2: no task is named"),
        (HEADER + "A,1,0,0.9,44\n", "dense model is 44, expected 1"),
        (
            HEADER + DENSE + "A,2,0.6,0.8,4\nA,2,0.6,0.7,4\n",
            "two rows of A N=2 sparsity=0.6 that disagree .*keep one",
        ),
        (HEADER + DENSE + "A,2,0.6,0.8,4\nA,2,0.6,0.8,5\n", "that disagree .*throughput 4 and 5"),
        (
            HEADER + DENSE + "A,2,0.6,85,4\n",
            "is 85, a percentage while others are fractions: give all .*fractions",
        ),
        (HEADER + "A,1,0,90,1\nA,2,0.6,85,4\n", "is 90, a percentage: give all accuracies as fractions"),
        (HEADER + "A,2,0.6,0.8,4\n", "A has no row of the dense model"),
        (HEADER + DENSE + "A,2,60,0.8,4\n", "row 2: sparsity is 60, expected a share .*0.6, not 60"),
        (HEADER + DENSE + "A,2.5,0.6,0.8,4\n", "row 2: num_instances is 2.5, expected a whole number"),
        (HEADER + DENSE + "A,2,0.6,0.8,-1\n", "row 2: throughput is -1"),
        (HEADER + DENSE + "A,2,0.6,0.8,1e-320\n", "row 2: throughput is 1e-320, expected an improvement"),
        (
            HEADER + DENSE + "A,2,0.6,0.8,2,5\n",
            "row 2 has 6 values, expected 5 as in the header .*a point, not a comma",
        ),
        (HEADER + DENSE + "A,2,0.6,0.8\n", "row 2 has 4 values, expected 5"),
        (HEADER.strip() + ",accuracy\nA,1,0,0.9,1,0.8\n", "has two columns accuracy: keep one of each"),
        (HEADER.replace(",", ";") + "A;1;0;0.9;1\n", "separated by commas, found task;num_instances"),
        (
            HEADER.strip() + ",operations\nA,1,0,0.9,1,0\n",
            "row 1: operations is 0.*, expected a count above 0",
        ),
        (HEADER.strip() + ",accuracy_std\nA,1,0,0.9,1,-0.5\n", "row 1: accuracy_std is -0.5, expected"),
    ],
)
def test_what_is_wrong_with_a_csv_file(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_points(written(tmp_path, text))


def test_equal_duplicates_are_one_row(tmp_path):
    assert len(read_points(written(tmp_path, HEADER + DENSE + DENSE))) == 1


def line(accuracy, speedup, seed, n=2, s=0.6, **more):
    return {"task": "A", "num_instances": n, "sparsity": s, "accuracy": accuracy, "speedup": speedup,
            "train_seed": seed, **more}  # fmt: skip


def test_a_store_holds_seeds_and_repeated_evaluations(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, file)
    append("evaluation", line(0.5, 9.0, 1), 0, file)
    append("evaluation", line(0.80, 4.0, 1), 0, file)  # trained or evaluated again
    append("evaluation", line(0.84, 5.0, 2), 0, file)  # another seed
    append("pruning", {"task": "A"}, 0, file)
    dense, pruned = read_points([file])
    assert dense.key == (1, 0.0)
    assert (pruned.accuracy, pruned.throughput) == (pytest.approx(0.82), 4.5)
    assert pruned.accuracy_std == pytest.approx(0.0283, abs=1e-3)


def test_a_store_without_evaluations(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("pruning", {"task": "A"}, 0, file)
    with pytest.raises(UserError, match=r"no evaluation with accuracy and speedup: run evaluation\.py"):
        read_points(file)
    with pytest.raises(UserError, match="can't read"):
        read_points(tmp_path / "missing.jsonl")
    (tmp_path / "other.jsonl").write_text(json.dumps({"a": 1}))
    with pytest.raises(UserError, match="holds no results"):
        read_points(tmp_path / "other.jsonl")


def test_what_is_in_several_files(tmp_path):
    first, second = (
        written(tmp_path, HEADER + DENSE),
        written(tmp_path, HEADER + "A,1,0,0.7,1\n", "other.csv"),
    )
    assert len(read_points([first, first])) == 1
    with pytest.raises(UserError, match="two rows of A N=1 sparsity=0 that disagree"):
        read_points([first, second])
    stores = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, stores[0])
    append("evaluation", line(0.7, 4.0, 1), 0, stores[0])
    append("evaluation", line(0.8, 5.0, 1), 0, stores[1])  # the same model again
    assert read_points(stores)[1].accuracy == 0.8


def test_speedups_that_cannot_be_compared(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0, device="cpu"), 0, file)
    append("evaluation", line(0.8, 4.0, 1, device="cuda"), 0, file)
    with pytest.raises(UserError, match="A was evaluated under different conditions"):
        read_points(file)
    append("evaluation", line(0.9, 1.0, 1, 1, 0, device="cpu") | {"task": "B"}, 0, file)
    assert read_points(file, ["b"]), "another task's don't matter"
    with pytest.raises(UserError, match="A was evaluated under different conditions"):
        read_points(file, ["A"])


def test_scores_of_different_metrics_cannot_be_compared(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, file)
    append("evaluation", line(0.8, 4.0, 1), 0, file)
    assert read_points(file), "lines that say nothing are of accuracy"
    append("evaluation", line(0.8, 4.0, 1, metric="f1"), 0, file)
    with pytest.raises(UserError, match=r"conditions \(metric accuracy or f1\)"):
        read_points(file)


def test_groups_by_length_and_by_order_cannot_be_compared(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, file)
    append("evaluation", line(0.8, 2.0, 1), 0, file)
    assert read_points(file), "lines that say nothing are by order"
    append("evaluation", line(0.9, 1.5, 1, 1, 0.6, grouped_by="order"), 0, file)
    append("evaluation", line(0.8, 2.0, 1, grouped_by="length"), 0, file)
    assert read_points(file), "without multiplexing there are no groups"
    append("evaluation", line(0.8, 4.0, 1, s=0.8), 0, file)
    with pytest.raises(UserError, match=r"conditions \(grouped_by length or order\)"):
        read_points(file)


@pytest.mark.parametrize(
    "change",
    [{"task": None}, {"num_instances": None}, {"sparsity": "x"}, {"accuracy_std": "x"}, {"method": [1]}],
)
def test_a_broken_line_of_a_store(tmp_path, change):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0) | change, 0, file)
    with pytest.raises(UserError, match="expected"):
        read_points(file)


@pytest.mark.parametrize("text", ['{"kind": ' + "1" * 5000 + "}", "[" * 100_000])
def test_a_line_that_no_reader_takes(tmp_path, caplog, text):
    file = tmp_path / "runs.jsonl"
    file.write_text(text + "\n")
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, file)
    assert len(read_points(file)) == 1
    assert "line 1 is no whole JSON line" in caplog.text


def test_a_store_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_points(file)) == 1


def test_the_papers_names():
    assert [method_name(*key) for key in ((1, 0), (1, 0.6), (2, 0), (2, 0.6))] == [
        "dense", "CoFi", "DataMUX", "PruMUX",
    ]  # fmt: skip


def test_other_tasks_do_not_stand_in_the_way_of_the_one_that_is_named(tmp_path):
    table = written(tmp_path, HEADER + DENSE + "U,2,0.6,0.8,3\n")  # without its dense model
    assert [point.task for point in read_points(table, ["A"])] == ["A"]
    with pytest.raises(UserError, match="U has no row of the dense model"):
        read_points(table)
    store = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, 1, 0), 0, store)
    append("evaluation", line(float("nan"), 1.0, 1, 1, 0) | {"task": "U"}, 0, store)
    assert [point.task for point in read_points(store, ["a"])] == ["A"]
    with pytest.raises(UserError, match="accuracy is nan, expected a number"):
        read_points(store)


def test_the_newest_evaluation_whatever_the_order_of_the_files(tmp_path):
    stores = [tmp_path / "new.jsonl", tmp_path / "old.jsonl"]
    for store, accuracy, year in zip(stores, (0.8, 0.7), (2026, 2025), strict=True):
        row = {
            "kind": "evaluation",
            **line(accuracy, 1.0, 1, 1, 0),
            "provenance": {"time": f"{year}-01-01T00:00:00"},
        }
        store.write_text(json.dumps(row) + "\n")
    assert read_points(stores)[0].accuracy == read_points(stores[::-1])[0].accuracy == 0.8


@pytest.mark.parametrize(
    "change", [{"train_seed": [1]}, {"examples_per_second": "30 ex"}, {"layers": {}}, {"true_sparsity": "x"}]
)
def test_values_of_a_wrong_kind(tmp_path, change):
    append("evaluation", line(0.9, 1.0, 1, 1, 0) | change, 0, tmp_path / "runs.jsonl")
    with pytest.raises(UserError, match=f"{next(iter(change))} is .*, expected a number"):
        read_points(tmp_path / "runs.jsonl")


def test_models_that_are_left_out_are_told_of(tmp_path, caplog):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, n=1, s=0.0), 0, file)
    for accuracy, checkpoint in ((0.6, "old"), (0.85, "new"), (0.85, "new")):
        append("evaluation", line(accuracy, 4.0, 1, checkpoint=checkpoint), 0, file)
    assert [point.accuracy for point in read_points(file) if point.num_instances == 2] == [0.85]
    assert "1 evaluations are of other models than the newest" in caplog.text
    assert "accuracy 0.600" in caplog.text


def test_an_evaluation_of_no_known_seed_is_no_further_seed(tmp_path):
    file = tmp_path / "runs.jsonl"
    append("evaluation", line(0.9, 1.0, 1, n=1, s=0.0), 0, file)
    append("evaluation", line(0.8, 4.0, 1), 0, file)
    append("evaluation", line(0.2, 9.0, None), 0, file)
    point = next(point for point in read_points(file) if point.num_instances == 2)
    assert (point.accuracy, point.throughput) == (0.8, 4.0)


def test_speedups_of_different_machines_are_told_of(tmp_path, caplog):
    file = tmp_path / "runs.jsonl"
    for cpu, given in (("a", line(0.9, 1.0, 1, n=1, s=0.0)), ("b", line(0.8, 4.0, 1))):
        value = {"kind": "evaluation", **given, "provenance": {"hardware": {"cpu": cpu, "threads": 2}}}
        with open(file, "a") as stream:
            stream.write(json.dumps(value) + "\n")
    read_points(file)
    assert "different machines (a, 2 threads; b, 2 threads)" in caplog.text
