"""The examples run as printed and write what they promise."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def vision(monkeypatch, tmp_path, capsys):
    def call(*flags: str):
        monkeypatch.setattr(sys, "argv", ["vision.py", "--output_dir", str(tmp_path), *flags])
        runpy.run_path(str(PROJECT / "examples" / "vision.py"), run_name="__main__")
        return capsys.readouterr().out, json.loads((tmp_path / "vision.json").read_text())

    return call


@pytest.mark.parametrize("demuxing", ["index_pos", "mlp"])
def test_images_are_multiplexed(vision, tmp_path, demuxing):
    printed, report = vision(
        "--num_instances", "1", "3", "--steps", "60", "--repeats", "1", "--hidden_size", "64",
        "--demuxing_variant", demuxing,
    )  # fmt: skip
    assert [(row["network"], row["num_instances"]) for row in report["rows"]] == [
        ("mlp", 1), ("mlp", 3), ("cnn", 1), ("cnn", 3),
    ]  # fmt: skip
    assert min(row["accuracy"] for row in report["rows"]) > 0.2  # chance is 0.1
    assert "| cnn | 3 |" in printed
    assert (tmp_path / "accuracy.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_instances", "0"], "must be at least 1"),
        (["--dataset", "mnist"], "mnist needs torchvision"),
        (["--num_instances", "65", "--muxing_variant", "binary_hadamard"], "must not exceed the hidden size"),
    ],
)
def test_wrong_flags_are_one_line(vision, capsys, flags, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(SystemExit) as stop:
        vision(*flags, "--steps", "1", "--repeats", "1")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
