"""Tests of prumux.reports.tables: alignment, missing values, the notes below an evaluation's table."""

from __future__ import annotations

from prumux.reports.tables import format_report, format_table

ROWS = [
    {
        "model": "dense",
        "num_instances": 1,
        "sparsity": 0.0,
        "parameters": 22713986,
        "score": 0.9,
        "score_std": 0.0,
        "examples_per_second": 35.2,
        "speedup": 1.0,
    },
    {
        "model": "PruMUX",
        "num_instances": 10,
        "sparsity": 0.6012,
        "parameters": 9000000,
        "score": 0.8211,
        "score_std": 0.0049,
        "examples_per_second": 12345.6,
        "speedup": 350.727,
    },
]


def test_the_whole_table():
    assert format_table(ROWS) == "\n".join(
        [
            "| model  |   N | sparsity | parameters |      accuracy | examples/s | speedup |",
            "| :----- | --: | -------: | ---------: | ------------: | ---------: | ------: |",
            "| dense  |   1 |    0.000 | 22,713,986 |         0.900 |       35.2 |   1.00x |",
            "| PruMUX |  10 |    0.601 |  9,000,000 | 0.821 ± 0.005 |     12,346 | 350.73x |",
        ]
    )


def test_missing_values_are_dashes():
    table = format_table([{"model": "dense (random weights)", "score": None}], metric="matthews_correlation")
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "matthews_correlation" in lines[0]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["dense (random weights)", *["-"] * 6]


def test_a_table_without_rows_has_its_heading():
    assert len(format_table([]).splitlines()) == 2


def test_a_bar_in_a_name_does_not_split_the_cell():
    assert "a\\|b" in format_table([{"model": "a|b"}])


def test_a_report_says_how_it_was_measured():
    measured = {"repeats": 5, "passes": 2, "rows": 256, "parameters_without_embeddings": 10_000}
    spread = {"examples_per_second_min": 30.0, "examples_per_second_max": 40.0, "path": "out/best"}
    rows = [row | measured | spread | {"metrics": {"accuracy": row["score"], "f1": 0.75}} for row in ROWS]
    rows[0] |= {"path": None, "metrics": {}}
    text = format_report(
        {
            "task": "QQP",
            "main_metric": "accuracy",
            "baseline": "dense",
            "settings": {
                "device": "cpu",
                "dtype": "bfloat16",
                "max_seq_length": 96,
                "dynamic_padding": False,
                "num_groupings": 3,
                "compile": True,
            },
            "rows": rows,
            "provenance": {
                "hardware": {"cpu": "A Processor", "gpu": None, "threads": 2},
                "versions": {"python": "3.12.1", "torch": "2.13.0", "transformers": "5.23.0"},
            },
        }
    )
    assert text.startswith(format_table(rows))
    for part in [
        "not trained, measured for its speed",
        "10,000 parameters without embeddings",
        "30.0 to 40.0 examples/s over 5 repeats of 2 x 256 rows",
        "f1 0.750",
        "accuracy on QQP, development set, padded to 96 tokens, 3 grouping(s)",
        "speedup over dense",
        "A Processor, cpu, bfloat16, 2 thread(s), engine torch.compile; python 3.12.1, torch 2.13.0",
    ]:
        assert part in text
