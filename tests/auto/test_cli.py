"""`prumux auto` as a user calls it, and the paper's tables in the paper's layout."""

from __future__ import annotations

import json

import pytest

from prumux.__main__ import main
from prumux.auto.tables import table_1, table_2, table_3
from tests.auto.test_search import grid


@pytest.fixture
def results(tmp_path):
    file = tmp_path / "grid.csv"
    rows = [
        f"{p.task},{p.num_instances},{p.sparsity},{p.accuracy},{p.throughput}"
        for p in grid() + grid(task="B")
    ]
    file.write_text("\n".join(["task,num_instances,sparsity,accuracy,throughput", *rows]) + "\n")
    return str(file)


def test_predict_as_json(results, capsys):
    main(["auto", "predict", results, "--task", "A", "--loss_budget", "3", "--top", "3", "--json", "-"])
    given = json.loads(capsys.readouterr().out)
    assert given["threshold"] == pytest.approx(0.888 - 0.03)
    assert len(given["predictions"]) == 3
    assert {"num_instances", "sparsity", "accuracy", "throughput"} <= set(given["predictions"][0])
    assert all(p["accuracy"] >= given["threshold"] - 1e-9 for p in given["predictions"])
    main(["auto", "predict", results, "--task", "A", "--loss_budget", "3", "--num_instances", "1", "2",
          "--sparsity", "0", "0.6", "0.65", "--json", "-"])  # fmt: skip
    chosen = json.loads(capsys.readouterr().out)["predictions"]
    assert {(p["num_instances"], p["sparsity"]) for p in chosen} <= {
        (n, s) for n in (1, 2) for s in (0, 0.6, 0.65)
    }


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("fit", "accuracy within 1.5 points 100.0%"),
        ("predict --task A --loss_budget 3", "3 points below the dense model's"),
        ("next --task A --loss_budget 3", "best measured within the budget"),
        ("next --task A --loss_budget 3 --replay", "true best"),
        ("table --number 1", "| Task | M_A"),
        ("table --number 2 --throughput_task A", "Actual Best (N, s), Throu. (x)"),
        ("table --number 3 --train_sparsity 0.6 0.8 0.95", "| Task | Accuracy"),
    ],
)
def test_tables_for_people_and_files_for_programs(results, tmp_path, capsys, command, shown):
    action, *flags = command.split()
    file = tmp_path / "numbers.json"
    main(["auto", action, results, *flags, "--json", str(file)])
    assert shown in capsys.readouterr().out
    assert json.loads(file.read_text())["provenance"]["versions"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict --loss_budget 3", "choose one with --task"),
        ("predict --task A", "--loss_budget"),
        ("predict --task A --loss_budget 3 --num_instances 30", "outside the measured points"),
        ("predict --task A --loss_budget 3 --top 0", "--top is 0"),
        ("predict --task A --loss_budget -3", "expected points of accuracy from 0 to 100"),
        ("table --number 1 --train_sparsity 0.6", "--train_sparsity is of tables 2 and 3"),
    ],
)
def test_one_clear_line(results, capsys, command, message):
    action, *flags = command.split()
    with pytest.raises(SystemExit) as stopped:
        main(["auto", action, results, *flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_next_says_when_there_is_nothing_to_gain(results, capsys):
    main(["auto", "next", results, "--task", "A", "--loss_budget", "100"])
    assert (
        "nothing is expected to gain 1% of that" in capsys.readouterr().out
    )  # the fastest of all is measured
    main(["auto", "next", results, "--task", "A", "--loss_budget", "3"])
    assert "nothing is expected" not in capsys.readouterr().out


PAPER_TABLE_2 = {  # arXiv 2305.14706, table 2: top predictions and the actual best at a budget of 3 points
    "MNLI": ([(2, 0.65, 4.5), (2, 0.60, 4.2), (1, 0.80, 4.0)], (2, 0.65, 4.7)),
    "QNLI": ([(2, 0.70, 5.0), (2, 0.65, 4.2), (2, 0.60, 3.9)], (2, 0.65, 4.5)),
    "QQP": ([(2, 0.90, 12.4), (5, 0.65, 10.6), (1, 0.95, 10.6)], (2, 0.90, 12.4)),
    "SST-2": ([(1, 0.95, 10.6), (1, 0.90, 6.2), (2, 0.70, 5.0)], (1, 0.95, 10.6)),
}


def test_the_papers_figures_in_the_papers_layout():
    rows = [{"task": task, "predictions": top, "best": best} for task, (top, best) in PAPER_TABLE_2.items()]
    lines = table_2(rows).splitlines()
    assert len(lines) == 2 + 12
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["MNLI", "Top 1: (2, 0.65), 4.5", "(2, 0.65), 4.7"]
    assert cells[3] == ["", "Top 2: (2, 0.60), 4.2", ""]
    for top, best in PAPER_TABLE_2.values():  # ordered by throughput, and the actual best is among the three
        assert [t for _, _, t in top] == sorted((t for _, _, t in top), reverse=True)
        assert best[:2] in [p[:2] for p in top]
    quality = {"MNLI": (0.923, 0.923), "QNLI": (1, 0.917), "QQP": (1, 1), "SST-2": (1, 1)}
    first = table_1({task: {"M_A": a, "M_T": t} for task, (a, t) in quality.items()}).splitlines()
    assert [cell.strip() for cell in first[2].strip("|").split("|")] == [
        "MNLI", "92.3%", "92.3%", "QQP", "100.0%", "100.0%",
    ]  # fmt: skip
    third = table_3({"MNLI": 0.81, "QNLI": 0.905, "QQP": 1.0}).splitlines()
    assert [cell.strip() for cell in third[3].strip("|").split("|")] == ["QNLI", "90.5%", "", ""]
