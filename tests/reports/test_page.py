"""The report of a store: best speedups, files for programs, and a page that a browser shows."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from prumux.__main__ import main
from prumux.auto.points import read_points
from prumux.reports.collect import collect
from prumux.reports.methods import FEWER_LAYERS, method_name, shown_sparsity
from prumux.reports.store import append
from prumux.reports.thresholds import best_by_threshold, threshold_cells

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
MODELS = [  # N, sparsity, layers, accuracy, speedup
    (1, 0.0, 6, 0.900, 1.0), (1, 0.6, 6, 0.890, 2.2), (1, 0.9, 6, 0.850, 6.0), (2, 0.0, 6, 0.860, 1.9),
    (2, 0.6, 6, 0.850, 4.3), (2, 0.9, 6, 0.820, 11.0), (1, 0.0, 3, 0.870, 2.0),
]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    file = tmp_path / "runs.jsonl"
    for task in ("A", "B"):
        for n, s, layers, accuracy, speedup in MODELS:
            append("evaluation", {
                "train_seed": 57,
                "task": task, "method": method_name(n, s, layers, 6), "layers": layers, "num_instances": n,
                "sparsity": s,
                "accuracy": accuracy, "speedup": speedup, "examples_per_second": 100 * speedup, "parameters": 10,
                "metric": "accuracy", "checkpoint": f"{n} {s} {layers}", "ensemble": 1,
            }, 0, file)  # fmt: skip
    return file


def test_sparsities_are_short():
    assert [shown_sparsity(s) for s in (0, 0.6, 0.599526, 0.925, 0.599401)] == [
        "0.00",
        "0.60",
        "0.60",
        "0.925",
        "0.599",
    ]


def test_rows_of_a_store(store):
    rows, metric = collect([store], "A")
    assert metric == "accuracy"
    assert [row["method"] for row in rows][:2] == ["dense", "DataMUX"]
    assert {"first 3 layers", "PruMUX (2, 0.60)"} <= {row["model"] for row in rows}


def test_the_best_speedup_of_each_method(store):
    rows, _ = collect([store], "A")
    by_loss = {line["loss"]: line for line in best_by_threshold(rows)}
    assert by_loss[1.0]["CoFi"]["speedup"] == 2.2
    assert by_loss[1.0]["PruMUX"] is None
    assert by_loss[5.0]["CoFi"]["speedup"] == 6.0
    assert by_loss[5.0]["PruMUX"]["speedup"] == 4.3
    assert by_loss[10.0]["PruMUX"]["speedup"] == 11.0
    assert by_loss[3.0][FEWER_LAYERS]["speedup"] == 2.0
    header, cells = threshold_cells(rows)
    line = dict(zip(header, cells[-1], strict=True))
    assert line["PruMUX"] == "11.0x (2, 0.90) *"
    assert line[FEWER_LAYERS] == "2.0x (3 layers)"


def test_files_of_the_report(store, tmp_path, capsys):
    plots = [str(tmp_path / name) for name in ("plot.png", "plot.svg")]
    main(["report", str(store), "--task", "A", "--plot", plots[0], "--plot", plots[1], "--csv",
          str(tmp_path / "rows.csv"), "--markdown", str(tmp_path / "tables.md")])  # fmt: skip
    assert "Best speedup" in capsys.readouterr().out
    assert (tmp_path / "plot.svg").read_text().lstrip().startswith("<?xml")
    assert len(pd.read_csv(tmp_path / "rows.csv")) == len(MODELS)
    assert "| PruMUX (2, 0.90) " in (tmp_path / "tables.md").read_text()
    before = (tmp_path / "plot.svg").read_bytes()
    main(["report", str(store), "--task", "A", "--plot", plots[1]])
    assert (tmp_path / "plot.svg").read_bytes() == before


def test_the_csv_file_is_one_that_auto_prumux_and_the_report_read(store, tmp_path):
    file = tmp_path / "rows.csv"
    main(["report", str(store), "--task", "A", "--csv", str(file)])
    points = [replace(point, operations=None) for point in read_points(store, ["A"])]
    assert read_points(file) == points
    rows, _ = collect([file])
    assert [(row["model"], row["score"]) for row in rows if row["num_instances"] == 2] == [
        ("DataMUX (2, 0.00)", 0.86),
        ("PruMUX (2, 0.60)", 0.85),
        ("PruMUX (2, 0.90)", 0.82),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "p.png"], "a plot shows one task, there are A, B"),
        (["--task", "C"], "there are results of A, B"),
    ],
)
def test_refused(store, capsys, flags, message):
    with pytest.raises(SystemExit):
        main(["report", str(store), *flags])
    assert message in capsys.readouterr().err


def test_a_store_without_the_dense_model(tmp_path, capsys):
    file = tmp_path / "runs.jsonl"
    append(
        "evaluation",
        {"task": "A", "num_instances": 2, "sparsity": 0.6, "accuracy": 0.8, "speedup": 4.0},
        0,
        file,
    )
    with pytest.raises(SystemExit):
        main(["report", str(file)])
    assert "no evaluation of A's dense model" in capsys.readouterr().err


def test_the_page_needs_nothing_else(store, tmp_path):
    main(["report", str(store), "--html", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert 'src="' not in page
    assert "<h2>B</h2>" in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_the_page_in_a_browser(store, tmp_path):
    page = tmp_path / "page.html"
    main(["report", str(store), "--html", str(page)])
    run = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={tmp_path / 'page.png'}", "--window-size=1000,1400", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "PruMUX (2, 0.90)" in run.stdout
    assert "<svg" in run.stdout
