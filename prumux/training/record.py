"""What is kept of a finished run: its record (run.json) and its line in the results store."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.evaluation.locate import read_run
from prumux.pruning.accounting import model_size
from prumux.reports.methods import method_name
from prumux.reports.provenance import provenance
from prumux.reports.store import append, checkpoint_hash
from prumux.training.arguments import Arguments, precision
from prumux.training.folder import METRICS, ON_THE_WAY
from prumux.training.trainer import PrumuxTrainer


def make_record(
    trainer: PrumuxTrainer, arguments: Arguments, seconds: float, wanted: list[str]
) -> dict[str, Any]:
    """What run.json says: the best model's metrics and sizes, the history, and how it was made.

    Args:
        seconds: the run took. wanted: the flags that decide the outcome, by which a finished run is recognised.
    """
    if arguments.training.do_train:
        metrics = trainer.best_metrics()
        if metrics is None:
            raise UserError(
                f"{arguments.training.output_dir}: no evaluation gave a finite score, so there is no model to keep: "
                "lower --learning_rate, or give --bf16 False"
            )
        model = type(trainer.student).from_pretrained(trainer.best_dir)
    else:
        model = trainer.student
        metrics = trainer.measure()
    size = model_size(model)
    names = [name for name in metrics if name != "step"]
    pruning = arguments.pruning
    by_sparsity = (
        pruning.setting == "pruning" and pruning.target_speedup is None and pruning.narrow_for is None
    )
    return {
        "task": trainer.task.name,
        "setting": pruning.setting,
        "num_instances": model.config.num_instances,
        "target_sparsity": pruning.target_sparsity[-1] if by_sparsity else _inherited(arguments),
        "target_speedup": pruning.target_speedup if pruning.setting == "pruning" else None,
        "sparsity": size.sparsity,
        "parameters": size.total,
        "parameters_without_embeddings": size.without_embeddings,
        "metrics": metrics,
        "main_metric": names[0] if names else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": round(seconds, 1),
        "dtype": precision(arguments.training),
        "arguments": wanted,
        "history": trainer.state.log_history,
        **provenance(arguments.training.seed),
    }


def _inherited(arguments: Arguments) -> float | None:
    """The sparsity that the pruned model was asked for which a finetuning starts from; ``None`` for any other run."""
    start = arguments.model.model_name_or_path
    if arguments.pruning.setting == "pruning" or start is None:
        return None
    if on_the_way := re.fullmatch(rf"{ON_THE_WAY}(0\.\d+)", Path(start).parent.name):
        return float(on_the_way[1])
    asked = read_run(start).get("target_sparsity")
    return float(asked) if isinstance(asked, int | float) else None


def store(record: dict[str, Any], trainer: PrumuxTrainer, arguments: Arguments) -> None:
    """Add the run to the results store, a line for each model that it leaves; what it did not measure is null."""
    training = arguments.training
    for asked, folder in trainer.kept_models():
        metrics, true, parameters = record["metrics"], record["sparsity"], record["parameters"]
        if folder != trainer.best_dir:  # on the way to a later target
            metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
            size = model_size(type(trainer.student).from_pretrained(folder))
            true, parameters = size.sparsity, size.total
        fields = {
            "task": record["task"],
            "method": method_name(record["num_instances"], true),
            "num_instances": record["num_instances"],
            "sparsity": record["target_sparsity"] if asked is None else asked,
            "true_sparsity": true,
            "parameters": parameters,
            "accuracy": metrics.get(record["main_metric"]),
            "accuracy_std": metrics.get(f"{record['main_metric']}_std"),
            "metric": record["main_metric"],
            "examples_per_second": None,
            "baseline_examples_per_second": None,
            "speedup": None,
            "dtype": record["dtype"],
            "device": training.device.type,
            "length": arguments.data.max_seq_length,
            "steps": record["steps"],
            "seconds": record["seconds"],
            "train_seed": record["seed"],
            "checkpoint": checkpoint_hash(folder),
            "path": str(folder),
        }
        append(record["setting"], fields, record["seed"])
