"""The commands with names on the hub, as printed: models, GLUE, CoNLL-2003, wikitext and published checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoTokenizer

from prumux import PrumuxForSequenceClassification
from tests.hub_server import serve

PROJECT = Path(__file__).resolve().parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


def publish(folder: Path, config: str, columns: dict[str, list], features: dict) -> None:
    """A data set of two equal splits as its repository has it: Parquet files and a card that names them."""
    (folder / config).mkdir(parents=True)
    for split in ("train", "validation"):
        data = Dataset.from_dict(columns, features=Features(features))
        data.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n"
        f"  - split: train\n    path: {config}/train-*\n  - split: validation\n    path: {config}/validation-*\n---\n"
    )


@pytest.fixture
def on_hub(tmp_path: Path, bert: Path) -> Iterator[tuple[Path, Run]]:
    """A hub with ``someone/bert``: its repositories' folder, and a command run against it."""
    root = tmp_path / "hub"
    encoder = (
        shutil.copytree(bert, root / "models/someone/bert") / "pytorch_model.bin"
    )  # no safetensors, as many have
    weights = torch.load(encoder, weights_only=True)
    torch.save({name: value for name, value in weights.items() if "classifier" not in name}, encoder)
    (root / "datasets").mkdir()
    with serve(root) as address:
        environment = {
            **os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

        def run(*command: object) -> subprocess.CompletedProcess[str]:
            arguments = [sys.executable, *map(str, command)]
            return subprocess.run(arguments, cwd=PROJECT, env=environment, capture_output=True, text=True)

        yield root, run


def trained(done: subprocess.CompletedProcess[str], folder: Path) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run.json").read_text())


STEP = ("--do_train", "--do_eval", "--max_steps", "1", "--groups_per_batch", "4", "--save_strategy", "no")


def test_a_model_and_a_glue_task(on_hub: tuple[Path, Run], tmp_path: Path) -> None:
    root, run = on_hub
    columns = {
        "sentence": ["the plot was good", "the cast was bad"] * 6,
        "label": [1, 0] * 6,
        "idx": list(range(12)),
    }
    features = {
        "sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"]), "idx": Value("int32"),
    }  # fmt: skip
    publish(root / "datasets/nyu-mll/glue", "sst2", columns, features)
    out = tmp_path / "out"
    command = ("--setting", "baseline", "--task_name", "SST-2", "--model_path", "someone/bert", *STEP)
    report = trained(run("run_glue.py", *command, "--output_dir", out), out)
    assert "accuracy" in report["metrics"]
    model = PrumuxForSequenceClassification.from_pretrained(out / "best")
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_words_with_tags(on_hub: tuple[Path, Run], tmp_path: Path) -> None:
    root, run = on_hub
    names = ["O", "B-PER", "I-PER"]
    columns = {
        "id": list("abcdef"),
        "tokens": [["Good", "Mary", "Ann", "was"]] * 6,
        "ner_tags": [[0, 1, 2, 0]] * 6,
    }
    features = {
        "id": Value("string"),
        "tokens": List(Value("string")),
        "ner_tags": List(ClassLabel(names=names)),
    }
    publish(root / "datasets/lhoestq/conll2003", "conll2003", columns, features)
    out = tmp_path / "out"
    command = ("--setting", "baseline", "--task_name", "NER", "--model_path", "someone/bert", *STEP)
    report = trained(run("run_ner.py", *command, "--output_dir", out), out)
    assert report["main_metric"] == "f1"


def test_a_corpus(on_hub: tuple[Path, Run], tmp_path: Path) -> None:
    root, run = on_hub
    columns = {"text": ["", "= A film =", "the plot was good and the cast was not very funny"] * 20}
    publish(root / "datasets/Salesforce/wikitext", "wikitext-103-raw-v1", columns, {"text": Value("string")})
    out = tmp_path / "out"
    command = ("--setting", "retrieval_pretraining", "--task_name", "wikitext", "--num_instances", "2", *STEP)
    done = run(
        "run_glue.py", *command, "--model_path", "someone/bert", "--max_seq_length", "16", "--output_dir", out
    )
    assert "retrieval_accuracy" in trained(done, out)["metrics"]


def test_a_published_checkpoint_takes_the_tokenizer_of_its_encoder(
    on_hub: tuple[Path, Run], mux: Path, tmp_path: Path
) -> None:
    root, run = on_hub
    name = "princeton-nlp/muxbert_base_mnli_gaussian_hadamard_index_pos_2"
    published = shutil.copytree(mux, root / "models" / name)
    for file in published.glob("*tok*"):  # such repositories hold a configuration and weights
        file.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(895))]
    (root / "models/bert-base-uncased").mkdir()
    (root / "models/bert-base-uncased/vocab.txt").write_text("\n".join(words))
    (root / "models/bert-base-uncased/config.json").write_text('{"model_type": "bert"}')
    done = run("-m", "prumux", "convert", name, tmp_path / "mnli_2")
    assert done.returncode == 0, done.stderr
    assert PrumuxForSequenceClassification.from_pretrained(tmp_path / "mnli_2").config.num_instances == 2
    assert len(AutoTokenizer.from_pretrained(tmp_path / "mnli_2")) == 900


def test_a_name_that_the_hub_does_not_have(on_hub: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = on_hub
    done = run("run_glue.py", "--task_name", "toy", "--model_path", "someone/no-such-model", *STEP,
               "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "someone/no-such-model" in line
