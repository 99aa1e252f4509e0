"""`prumux quickstart`: the whole pipeline on an embedded task, from a dense model to PruMUX, one table and one plot."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prumux.errors import UserError

logger = logging.getLogger(__name__)

NUM_INSTANCES = 2
SPARSITY = 0.60


@dataclass(frozen=True)
class Step:
    """One training run: its folder's name, its flags, and the name in the table of the model it leaves (if any)."""

    name: str
    flags: tuple[str, ...]
    shown_as: str | None = None


def plan(output: Path, configs: Path) -> list[Step]:
    """The runs in order: dense, CoFi, DataMUX, PruMUX; the dense model teaches all others."""
    shape = ("--config_name", str(configs / "models" / "toy.json"))

    def pruned_from(name: str, teacher: str, instances: int, shown_as: str) -> list[Step]:
        best, dense = str(output / teacher / "best"), str(output / "dense" / "best")
        mix = ("--num_instances", str(instances))
        pruning = (
            "--setting",
            "pruning",
            "--model_name_or_path",
            best,
            "--target_sparsity",
            f"{SPARSITY:.2f}",
            "--distillation_path",
            dense,
            *mix,
        )
        pruned = str(output / name / "best")
        finetuning = (
            "--setting",
            "finetuning",
            "--model_name_or_path",
            pruned,
            "--distillation_path",
            dense,
            *mix,
        )
        return [Step(name, pruning), Step(f"{name}/FT", finetuning, shown_as)]

    mix = ("--num_instances", str(NUM_INSTANCES))
    dense = str(output / "dense" / "best")
    return [
        Step("dense", ("--setting", "baseline", *shape), "dense"),
        *pruned_from(f"cofi_{SPARSITY:.2f}", "dense", 1, "CoFi (pruned)"),
        Step(
            f"mux_{NUM_INSTANCES}",
            ("--setting", "finetuning", "--model_name_or_path", dense, "--distillation_path", dense, *mix),
            "DataMUX (multiplexed)",
        ),
        *pruned_from(
            f"prumux_{NUM_INSTANCES}_{SPARSITY:.2f}", f"mux_{NUM_INSTANCES}", NUM_INSTANCES, "PruMUX (both)"
        ),
    ]


def quickstart(
    task: str = "toy", output_dir: str | Path = "out/quickstart", seed: int = 57, repeats: int = 5
) -> dict[str, Any]:
    """Train what is not trained yet, evaluate all models side by side, write ``results.json`` and ``frontier.png``.

    Returns:
        The report of :func:`prumux.evaluation.report.evaluate_candidates` with its provenance.

    Raises:
        UserError: another than the embedded tasks, or no ``configs`` folder beside the package.
    """
    import torch

    from prumux.data.loading import load_task
    from prumux.data.tasks import get_task
    from prumux.evaluation.load import load_model
    from prumux.evaluation.report import Settings, evaluate_candidates, store_report
    from prumux.reports.figures import plot_frontier
    from prumux.reports.provenance import provenance, write_json
    from prumux.training.phases import run

    if get_task(task).folder is not None:
        raise UserError(
            f"quickstart runs the embedded tasks toy and toy-nli, not {task}: use scripts/run_PruMUX.sh"
        )
    # More threads than one only wait for each other on matrices of this size, and make rounding depend on their number.
    torch.set_num_threads(1)
    configs = Path(__file__).resolve().parents[1] / "configs"
    if not configs.is_dir():
        raise UserError(f"no folder {configs}: run the quickstart from a clone of the project")
    output = Path(output_dir)
    steps = plan(output, configs)
    common = (
        "--task_name",
        task,
        "--recipe",
        str(configs / "recipes" / "quickstart.yaml"),
        "--seed",
        str(seed),
    )
    for number, step in enumerate(steps, start=1):
        logger.info("[%d/%d] %s", number, len(steps), step.name)
        run([*step.flags, *common, "--do_train", "--do_eval", "--output_dir", str(output / step.name)])
    candidates = [load_model(output / step.name / "best", step.shown_as) for step in steps if step.shown_as]
    data = load_task(task)
    settings = Settings(max_seq_length=32, repeats=repeats, seed=seed, engine="eager")  # nothing to wait for
    report = evaluate_candidates(candidates, data, settings, baseline="dense") | {
        "provenance": provenance(seed)
    }
    write_json(output / "results.json", report)
    store_report(report, seed)
    plot_frontier(report["rows"], output / "frontier.png", metric=report["main_metric"])
    return report
