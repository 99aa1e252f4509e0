"""kill -9 in the middle of pruning, the same command again: everything ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from prumux import PrumuxForSequenceClassification
from prumux.data.toy import toy_tokenizer

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path, tiny) -> Callable[[int], Path]:
    """Builds the folder of a small model of the embedded task for so many instances, with random weights."""

    def build(num_instances: int) -> Path:
        tokenizer = toy_tokenizer()
        config = tiny(
            vocab_size=len(tokenizer),
            num_instances=num_instances,
            hidden_dropout_prob=0.1,
            id2label={0: "negative", 1: "positive"},
            label2id={"negative": 0, "positive": 1},
        )
        folder = tmp_path / f"model_{num_instances}"
        PrumuxForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build


def command(start: Path, teacher: Path, output: Path) -> list[str]:
    flags = (
        "--setting pruning --task_name toy --num_instances 2 --target_sparsity 0.6 --sparsity_epsilon 0.02 "
        "--layer_distill_version 5 --max_train_samples 320 --max_eval_samples 64 --per_device_train_batch_size 16 "
        "--num_train_epochs 4 --lagrangian_warmup_epochs 2 --reg_learning_rate 0.2 --learning_rate 1e-3 "
        "--replace_tokens 0.2 --eval_strategy steps --eval_steps 8 --save_strategy steps --save_steps 8 "
        "--logging_steps 8 --disable_tqdm True --do_train --do_eval"
    )
    return [
        sys.executable,
        str(PROJECT / "run_glue.py"),
        *flags.split(),
        "--model_name_or_path",
        str(start),
        "--teacher",
        str(teacher),
        "--output_dir",
        str(output),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def whole_json(file: Path) -> bool:
    """Is the file, which is the last of a checkpoint, written to its end."""
    try:
        json.loads(file.read_text())
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("instances_of_the_teacher", [1, 2])
def test_a_killed_pruning_run_ends_as_an_uninterrupted_one(model, tmp_path, instances_of_the_teacher):
    start, teacher = model(2), model(instances_of_the_teacher)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(start, teacher, whole), check=True, env=environment(), capture_output=True)

    process = subprocess.Popen(command(start, teacher, killed), env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(map(whole_json, killed.glob("checkpoint-*/trainer_state.json"))):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "run.json").exists()
    done = subprocess.run(command(start, teacher, killed), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr

    first, second = (json.loads((folder / "run.json").read_text()) for folder in (whole, killed))
    assert second["metrics"] == first["metrics"]
    assert second["sparsity"] == first["sparsity"]
    assert abs(first["sparsity"] - 0.6) <= 0.02
    evaluations = [
        [
            {k: v for k, v in entry.items() if k.startswith("eval_")}
            for entry in run["history"]
            if "eval_accuracy" in entry
        ]
        for run in (first, second)
    ]
    assert evaluations[0] == evaluations[1]
    assert len(evaluations[0]) == 10
    weights = [load_file(folder / "best" / "model.safetensors") for folder in (whole, killed)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])

    again = subprocess.run(command(start, teacher, killed), env=environment(), capture_output=True, text=True)
    assert again.returncode == 0
    assert "is finished: nothing to do" in again.stderr
