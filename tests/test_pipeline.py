"""The scripts as a user calls them, one after the other, on the embedded task with a schedule of seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
STEPS = "max_steps: 6, eval_strategy: steps, eval_steps: 3, save_strategy: steps, save_steps: 3, learning_rate: 1.0e-3"
RECIPE = f"""
retrieval_pretraining: {{{STEPS}, groups_per_batch: 8, max_train_samples: 64, max_eval_samples: 32}}
finetuning: {{{STEPS}, groups_per_batch: 8, max_train_samples: 64, max_eval_samples: 32, retrieval_loss_coeff: 0.1}}
pruning: {{{STEPS}, groups_per_batch: 8, max_train_samples: 64, max_eval_samples: 32, lagrangian_warmup_epochs: 0.5}}
finetuning_pruned: {{{STEPS}, groups_per_batch: 8, max_train_samples: 64, max_eval_samples: 32}}
"""


@pytest.mark.slow
def test_prune_finetune_evaluate_from_another_folder(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(PROJECT),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "RECIPE": str(tmp_path / "recipe.yaml"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "EXTRA": "--disable_tqdm True",
    }

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    call("bash", str(PROJECT / "scripts" / "run_PruMUX.sh"))  # trains its teacher first
    call("bash", str(PROJECT / "scripts" / "run_PruMUX_FT.sh"))
    pruned = tmp_path / "out" / "toy" / "PruMUX" / "toy_sparsity0.60_2_4_0.9"
    finetuned = pruned / "FT-lr1e-3"
    for folder in (pruned, finetuned):
        record = json.loads((folder / "run.json").read_text())
        assert abs(record["sparsity"] - 0.6) <= 0.01
        assert record["num_instances"] == 2
        assert {"command", "versions", "hardware", "seed"} <= set(record)
        assert not list(folder.glob("checkpoint-*"))
    evaluation = call(
        sys.executable,
        str(PROJECT / "evaluation.py"),
        *"toy 0.60 2 --batch_size 8 --repeats 1 --num_groupings 2 --engine eager".split(),
    )
    assert "PruMUX" in evaluation.stdout
    assert "dense" in evaluation.stdout
    report = json.loads((finetuned / "evaluation.json").read_text())
    assert report["rows"][-1]["num_instances"] == 2
    assert report["rows"][-1]["speedup"] > 0

    before = (finetuned / "run.json").read_bytes()
    again = call("bash", str(PROJECT / "scripts" / "run_PruMUX_FT.sh"))
    assert "nothing to do" in again.stderr
    assert (finetuned / "run.json").read_bytes() == before
