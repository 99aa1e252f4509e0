"""Several evaluation reports in one table."""

from __future__ import annotations

import json

import pytest

from prumux import UserError
from prumux.__main__ import main
from prumux.reports.collect import collect


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
