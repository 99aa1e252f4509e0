"""`evaluation.py TASK SPARSITY N` on the authors' archive of pruned models, unpacked as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prumux import UserError
from prumux.evaluation.archive import ARCHIVE, from_archive
from prumux.evaluation.load import load_model
from prumux.evaluation.report import Settings, evaluate_checkpoint

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def archive(mux, tmp_path) -> Path:
    """A folder with the archive, made of one tiny multiplexed model with three classes."""
    best = tmp_path / ARCHIVE / "MNLI" / "MNLI_0.60_2" / "best"
    best.parent.mkdir(parents=True)
    shutil.move(mux, best)
    return tmp_path


@pytest.mark.slow
def test_evaluation_finds_converts_once_and_evaluates(archive):
    data = archive / "glue" / "MNLI"
    data.mkdir(parents=True)
    rows = [f"{i}\tthe plot was good\tthe plot was not bad\t{label}" for i, label in enumerate(
        ["neutral", "entailment", "contradiction", "entailment"])]  # fmt: skip
    (data / "dev_matched.tsv").write_text(
        "\n".join(["index\tsentence1\tsentence2\tgold_label", *rows]) + "\n"
    )
    command = [
        sys.executable, str(PROJECT / "evaluation.py"), "MNLI", "0.60", "2", "--data_dir", str(archive / "glue"),
        "--max_seq_length", "16", "--batch_size", "2", "--repeats", "1", "--output_dir", "out",
        "--device", "cpu", "--engine", "eager",
    ]  # fmt: skip
    done = [subprocess.run(command, cwd=archive, capture_output=True, text=True, timeout=300) for _ in "ab"]
    assert [run.returncode for run in done] == [0, 0], done[0].stderr
    notice = "is the authors' checkpoint: converted once to out/MNLI/converted/MNLI_0.60_2/best"
    assert [sum(notice in line for line in run.stderr.splitlines()) for run in done] == [1, 0]
    report = json.loads(next(archive.glob("out/MNLI/converted/*/evaluation.json")).read_text())
    rows = {row["num_instances"]: row for row in report["rows"]}
    assert 0 <= rows[2]["metrics"]["accuracy"] <= 1


def test_a_model_of_ours_comes_first(archive, monkeypatch):
    """What was trained here is preferred to the archive."""
    monkeypatch.chdir(archive)
    best = Path("out/MNLI/PruMUX/MNLI_sparsity0.60_2_4_0.9/best")
    best.mkdir(parents=True)
    (best / "config.json").write_text("{")  # damaged: that it is tried shows that it was chosen
    (best.parent / "run.json").write_text(
        json.dumps({"main_metric": "accuracy", "metrics": {"accuracy": 0.5}})
    )
    with pytest.raises(UserError, match=r"sparsity0\.60"):
        evaluate_checkpoint("MNLI", 0.60, 2, Settings(), output_dir="out")
    assert not Path("out/MNLI/converted").exists()


def test_other_triples_and_other_places(archive, monkeypatch, tmp_path):
    monkeypatch.chdir(archive)
    assert from_archive("MNLI", 0.95, 2, "out") is None
    assert from_archive("QNLI", 0.60, 2, "out") is None
    (archive / "elsewhere").mkdir()
    moved = archive / ARCHIVE
    moved.rename(archive / "elsewhere" / "models")
    assert from_archive("MNLI", 0.60, 2, "out") is None
    monkeypatch.setenv("PRUMUX_MODELS", str(archive / "elsewhere" / "models"))
    assert from_archive("MNLI", 0.60, 2, "out") == Path("out/MNLI/converted/MNLI_0.60_2/best")


def test_a_damaged_archive_is_said_to_be_so(archive, monkeypatch):
    monkeypatch.chdir(archive)
    weights = archive / ARCHIVE / "MNLI" / "MNLI_0.60_2" / "best" / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:4000])
    with pytest.raises(UserError, match="expected a complete file"):
        from_archive("MNLI", 0.60, 2, "out")
    assert not Path("out/MNLI/converted/MNLI_0.60_2").exists()


def test_a_model_without_a_tokenizer(archive, monkeypatch):
    """The archive holds none: it is named once, whenever, and otherwise asked for."""
    monkeypatch.chdir(archive)
    best = archive / ARCHIVE / "MNLI" / "MNLI_0.60_2" / "best"
    tokenizer = archive / "tokenizer"
    tokenizer.mkdir()
    for file in best.glob("*tok*"):
        file.rename(tokenizer / file.name)
    converted = from_archive("MNLI", 0.60, 2, "out")
    with pytest.raises(UserError, match=r"has no tokenizer: name the one .*--tokenizer"):
        load_model(converted)
    assert load_model(converted, tokenizer=str(tokenizer)).tokenizer is not None
