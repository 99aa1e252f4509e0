"""The benchmarks run and write what they promise, on a tiny model; no test asserts a time."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from prumux import PrumuxConfig, PrumuxForSequenceClassification
from prumux.data.toy import toy_tokenizer

PROJECT = Path(__file__).resolve().parents[2]
TOY = str(PROJECT / "configs" / "models" / "toy.json")


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Run a benchmark in this process; gives what it printed and its JSON."""

    def run(name: str, *arguments: str):
        target = tmp_path / "result.json"
        monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--json", str(target), "--device", "cpu"])
        runpy.run_path(str(PROJECT / "benchmarks" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out, json.loads(target.read_text())

    return run


def test_throughput(call, tmp_path):
    structure = json.loads(Path(TOY).read_text())
    structure |= {"kept_heads": [2, 0, 1, 0], "kept_intermediate": [16, 0, 8, 4]}
    (tmp_path / "structure.json").write_text(json.dumps(structure))
    printed, report = call(
        "throughput", "--dense", TOY, "--structure", str(tmp_path / "structure.json"), "--num_instances", "2",
        "--sparsity", "0.9", "--dtype", "float32", "--against", "hf", "--engine", "eager", "--length", "8",
        "--batch", "2", "--repeats", "2", "--seconds", "0.01",
    )  # fmt: skip
    assert [(row["name"], row["engine"], row["num_instances"]) for row in report["rows"]] == [
        ("dense", "eager", 1), ("dense", "hf", 1), ("N=2 s=0.918", "eager", 2),
    ]  # fmt: skip
    for row in report["rows"]:
        assert row["examples_per_second"] > 0
        assert row["max_logit_diff"] < 1e-3
        assert row["share_of_limit"] > 0
        assert {"hf_float32", "eager_float32", "best_dense_same_dtype"} <= set(row["ratios"])
        assert row["wall"]["threads"] >= 1
        assert row["wall"]["examples_per_second"] > 0
        assert row["name"] in printed
    assert report["provenance"]["versions"]


def test_throughput_of_trained_models_side_by_side(call, tmp_path):
    for n in (1, 2):
        config = PrumuxConfig(**json.loads(Path(TOY).read_text()), num_instances=n)
        PrumuxForSequenceClassification(config).save_pretrained(tmp_path / str(n))
        toy_tokenizer().save_pretrained(tmp_path / str(n))
    folders = [str(tmp_path / str(n)) for n in (1, 2)]
    printed, report = call(
        "throughput", "--dense", TOY, "--model", *folders, "--dtype", "float32", "--against", "hf", "--engine",
        "eager", "--length", "8", "--batch", "2", "--repeats", "2", "--seconds", "0.01", "--no_wall",
    )  # fmt: skip
    assert [(row["name"], row["num_instances"]) for row in report["rows"][2:]] == [
        (folders[0], 1),
        (folders[1], 2),
    ]
    assert folders[1] in printed


def test_training_step(call):
    printed, report = call(
        "training_step", "--config", TOY, "--groups", "3", "--max_seq_length", "16", "--repeats", "1"
    )
    assert [row["name"] for row in report["rows"]][:2] == ["plain", "ours"]
    assert all(row["speedup"] > 0 for row in report["rows"])
    assert "ours, padded as the plain one" in printed
