"""What is kept of a finished run: its record (run.json) and its line in the results store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.pruning.accounting import model_size
from prumux.reports.provenance import provenance
from prumux.reports.store import append, checkpoint_hash
from prumux.training.arguments import Arguments
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
                "lower --learning_rate, or leave out --bf16"
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
        "target_sparsity": pruning.target_sparsity[-1] if by_sparsity else None,
        "target_speedup": pruning.target_speedup if pruning.setting == "pruning" else None,
        "sparsity": size.sparsity,
        "parameters": size.total,
        "parameters_without_embeddings": size.without_embeddings,
        "metrics": metrics,
        "main_metric": names[0] if names else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": round(seconds, 1),
        "arguments": wanted,
        "history": trainer.state.log_history,
        **provenance(arguments.training.seed),
    }


def store(record: dict[str, Any], checkpoint: Path) -> None:
    """Add the run to the results store."""
    metrics = record["metrics"]
    fields = {
        "task": record["task"],
        "num_instances": record["num_instances"],
        "sparsity": record["target_sparsity"],
        "true_sparsity": record["sparsity"],
        "parameters": record["parameters"],
        "accuracy": metrics.get(record["main_metric"]),
        "accuracy_std": metrics.get(f"{record['main_metric']}_std"),
        "metric": record["main_metric"],
        "steps": record["steps"],
        "seconds": record["seconds"],
        "checkpoint": checkpoint_hash(checkpoint),
        "path": str(checkpoint),
    }
    append(record["setting"], fields, record["seed"])
