"""One evaluation: parameters, accuracy and, measured side by side, throughput of models and a baseline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prumux.errors import UserError
from prumux.evaluation.archive import from_archive
from prumux.evaluation.load import Candidate, is_token_classifier, load_baseline, load_model, size
from prumux.evaluation.locate import check_triple, locate, read_run, shown
from prumux.evaluation.predict import check_ensemble, evaluate
from prumux.evaluation.throughput import check_length, instances, measure_throughput
from prumux.inference.cost import cost
from prumux.inference.engine import InferenceEngine, compile_for_inference
from prumux.inference.hardware import DTYPES, INT8, resolve_device, resolve_dtype
from prumux.models.heads import PrumuxClassifier
from prumux.reports.methods import method_name
from prumux.reports.store import append, checkpoint_hash

if TYPE_CHECKING:
    from prumux.data.loading import TaskData

logger = logging.getLogger(__name__)
ENGINES = ("fast", "eager")
UNCHECKED = ("device", "seed")  # settings: looked for when it is needed; any will do
EXPECTED = {bool: "true or false", int: "a whole number from 1 on", str: "a name"}


@dataclass(frozen=True)
class Settings:
    """How models are evaluated; the defaults are the paper's protocol (batch 128*N, 128 tokens).

    Attributes:
        batch_size: groups in a batch (rows / N). max_seq_length: tokens.
        dtype, device: of accuracy and throughput.
        engine: ``fast`` (see ``compile_for_inference``) or ``eager``, the plain model. compile: of throughput, the
            plain model through ``torch.compile``.
        dynamic_padding: for accuracy, pad each batch to its longest row only.
        ensemble: slots with the same row, see ``predict_logits``. average_groupings: groupings whose logits are
            averaged, see ``evaluate``. Both are 1 for a model that doesn't multiplex.
        num_groupings, group_by_length: see ``evaluate``. repeats: timed repeats. seed: of groupings and random tokens.
    """

    batch_size: int = 128
    max_seq_length: int = 128
    dtype: str = "float32"
    device: str | None = None
    engine: str = "fast"
    compile: bool = False
    dynamic_padding: bool = False
    ensemble: int = 1
    average_groupings: int = 1
    num_groupings: int = 1
    group_by_length: bool = False
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no model can be evaluated with.

        Raises:
            UserError: a value of the wrong kind or out of range, an unknown dtype or engine.
        """
        for setting in fields(self):
            if setting.name in UNCHECKED:
                continue
            value: Any = getattr(self, setting.name)
            kind = type(setting.default)
            if type(value) is not kind or (type(value) is int and value < 1):
                raise UserError(f"expected {EXPECTED[kind]} for {setting.name}, not {value!r}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, expected a whole number from 0 to 2^32 - 1")
        for name, known in (("dtype", (*DTYPES, INT8)), ("engine", ENGINES)):
            if getattr(self, name) not in known:
                raise UserError(f"unknown {name} '{getattr(self, name)}': choose one of {', '.join(known)}")


def evaluate_candidates(
    candidates: Sequence[Candidate], data: TaskData, settings: Settings, baseline: str
) -> dict[str, Any]:
    """Evaluate models on one task in one run.

    Plain models are moved to the settings' device and dtype; an engine has a copy of its own.

    Args:
        candidates: models with names of their own.
        data: the task, not tokenized (each model has its tokenizer and its label order).
        baseline: name of the candidate that the speedups refer to.

    Returns:
        ``task, main_metric, baseline, settings, rows``; a row has ``model, path, method, num_instances,
        sparsity, parameters, parameters_without_embeddings, metrics, score`` (the main metric; None without
        training), ``score_std``, the keys of ``measure_throughput`` and ``speedup``.
    """
    assert len({candidate.name for candidate in candidates}) == len(candidates), "names must differ"
    device = resolve_device(settings.device)
    fast = settings.engine == "fast" and not settings.compile
    if settings.dtype == INT8 and not fast:
        raise UserError(
            "int8 is of the fast engine: leave --engine eager and --compile out, or choose another --dtype"
        )
    dtype = resolve_dtype("float32" if settings.dtype == INT8 else settings.dtype, device)
    dense_layers = next(config_layers(c.model) for c in candidates if c.name == baseline)
    rows: list[dict[str, Any]] = []
    engines: dict[str, InferenceEngine] = {}
    for candidate in candidates:
        model = candidate.model
        check_length(model, settings.max_seq_length)
        counted = size(model)
        if fast and isinstance(model, PrumuxClassifier):
            engines[candidate.name] = compile_for_inference(model, settings.dtype, device)
        else:
            model.to(device=device, dtype=dtype)
        metrics = _metrics(candidate, engines.get(candidate.name, model), data, settings)
        rows.append(
            {
                "model": candidate.name,
                "path": candidate.path,
                "method": method_name(
                    instances(model), counted["sparsity"], config_layers(model), dense_layers
                ),
                "layers": config_layers(model),
                "num_instances": instances(model),
                "operations": _operations(model, settings.max_seq_length),
                "ensemble": _if_multiplexed(model, settings.ensemble),
                "average_groupings": _if_multiplexed(model, settings.average_groupings),
                **counted,
                "metrics": metrics,
                "score": metrics.get(data.main_metric),
                "score_std": metrics.get(f"{data.main_metric}_std"),
            }
        )
    measured = measure_throughput(
        {candidate.name: candidate.model for candidate in candidates},
        batch_per_instance=settings.batch_size,
        length=settings.max_seq_length,
        repeats=settings.repeats,
        seed=settings.seed,
        dtype=dtype,
        device=device,
        compile=settings.compile,
        engines=engines,
    )
    reference = next(row["examples_per_second"] for row in measured if row["model"] == baseline)
    for row, speed in zip(rows, measured, strict=True):
        for name in ("examples_per_second", "examples_per_second_min", "examples_per_second_max"):
            speed[name] /= row["ensemble"] * row["average_groupings"]  # every example takes so many slots
        row |= speed | {"speedup": speed["examples_per_second"] / reference}
    return {
        "task": data.name,
        "main_metric": data.main_metric,
        "baseline": baseline,
        "settings": asdict(settings) | {"device": str(device)},
        "rows": rows,
    }


def evaluate_checkpoint(
    task: str | None,
    sparsity: float | None,
    num_instances: int | None,
    settings: Settings,
    *,
    model: str | None = None,
    tokenizer: str | None = None,
    baseline: str | None = None,
    output_dir: str | Path = "out",
    data_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
) -> dict[str, Any]:
    """Evaluate the model of a triple, or the one in the folder ``model``, against a dense baseline.

    Args:
        task: its name; None reads it from the run.json beside ``model``.
        sparsity, num_instances: the triple; with ``model`` optional, ``num_instances`` is then checked
            against it.
        tokenizer: see :func:`load_model`. baseline: see :func:`load_baseline`.

    Returns:
        As :func:`evaluate_candidates`, the evaluated model's row last.
    """
    from prumux.data.loading import load_task
    from prumux.data.tasks import TASKS

    check_triple(sparsity, num_instances)
    if settings.dtype != INT8:
        resolve_dtype(settings.dtype, resolve_device(settings.device))  # before anything is loaded
    task = _task_name(task, model, own_files=validation_file is not None)
    if model is not None:
        path = Path(model)
    elif sparsity is None or num_instances is None:
        raise UserError("no model named: give TASK SPARSITY N, or TASK --model PATH")
    else:
        path = _find(task, sparsity, num_instances, output_dir)
    loaded = load_model(path, tokenizer=tokenizer)
    own = instances(loaded.model)
    if num_instances not in (None, own):
        raise UserError(
            f"{shown(path)} was trained with N={own}, not N={num_instances}: give {own} or another model"
        )
    check_ensemble(settings.ensemble, own)
    candidates = [loaded]
    dense = load_baseline(baseline, loaded, Path(output_dir) / task / "dense" / "best", settings.seed)
    if dense is not loaded:
        if dense.name == loaded.name:
            candidates = [replace(loaded, name=f"{loaded.name} (evaluated)")]
        candidates.insert(0, dense)
    if task in TASKS and TASKS[task].tokens != is_token_classifier(loaded.model.config):
        labels = "words" if TASKS[task].tokens else "whole texts"
        raise UserError(
            f"{task} labels {labels}, {shown(path)} is another kind of model: name a model of this task"
        )
    data = load_task(
        task if task in TASKS else None,
        data_dir=data_dir,
        train_file=train_file,
        validation_file=validation_file,
        splits=("validation",),
        tag_words=is_token_classifier(loaded.model.config),
        scores=int(getattr(loaded.model.config, "num_labels", 0)) == 1,
    )
    return evaluate_candidates(candidates, replace(data, name=task), settings, baseline=dense.name)


def _find(task: str, sparsity: float, num_instances: int, output_dir: str | Path) -> Path:
    """Our own model of a triple, else the one in the authors' archive."""
    try:
        found = locate(task, sparsity, num_instances, output_dir)
        if found.sparsity > 0 and not found.finetuned:
            logger.warning(
                "%s is pruned but not finetuned yet: bash scripts/run_PruMUX_FT.sh", shown(found.path)
            )
        return found.path
    except UserError:
        published = from_archive(task, sparsity, num_instances, output_dir)
        if published is None:
            raise
        return published


def store_report(report: dict[str, Any], seed: int, asked: float | None = None) -> None:
    """Add every model of a report to the results store, one line each.

    ``asked``: the target sparsity of the evaluated model, the last row; without it, its run.json's or its own.
    """
    settings = report["settings"]
    reference = next(row for row in report["rows"] if row["model"] == report["baseline"])
    for row in report["rows"]:
        path = row["path"]
        run = {} if path is None else read_run(path)
        target = asked if row is report["rows"][-1] else None
        if target is None:
            target = run.get("target_sparsity")
        fields = {
            "task": report["task"],
            "method": row["method"],
            "layers": row["layers"],
            "num_instances": row["num_instances"],
            "sparsity": round(row["sparsity"], 2) if target is None else target,
            "true_sparsity": row["sparsity"],
            "parameters": row["parameters"],
            "accuracy": row["score"],
            "accuracy_std": row["score_std"],
            "metric": report["main_metric"],
            "groupings": settings["num_groupings"],
            "grouped_by": "length" if settings["group_by_length"] and row["num_instances"] > 1 else "order",
            "ensemble": row["ensemble"] * row["average_groupings"],
            "examples_per_second": row["examples_per_second"],
            "baseline_examples_per_second": reference["examples_per_second"],
            "speedup": row["speedup"],
            "dtype": settings["dtype"],
            "device": settings["device"],
            "engine": settings["engine"],
            "length": settings["max_seq_length"],
            "operations": row["operations"],
            "train_seed": run.get("seed"),
            "checkpoint": None if path is None else checkpoint_hash(path),
            "path": path,
        }
        append("evaluation", fields, seed)


def report_path(report: dict[str, Any]) -> Path:
    """Where a report goes by default: beside RUN/best, else into the model's folder.

    The name has what models are read with that changes their predictions: ensembles, averages, groups by length.
    """
    row = report["rows"][-1]
    path = Path(row["path"])
    parts = [f"{name}_{row[name]}" for name in ("ensemble", "average_groupings") if row[name] > 1]
    parts += ["group_by_length"] if report["settings"]["group_by_length"] and row["num_instances"] > 1 else []
    return (path.parent if path.name == "best" else path) / ".".join(["evaluation", *parts, "json"])


def _task_name(task: str | None, model: str | None, own_files: bool) -> str:
    """The task's canonical name, or as given for the user's own files."""
    from prumux.data.tasks import get_task

    task = task or (read_run(model).get("task") if model else None)
    if not task:
        raise UserError("no task: give TASK SPARSITY N, or TASK --model PATH")
    try:
        return get_task(task).name
    except UserError:
        if own_files:
            return task
        raise


def _metrics(
    candidate: Candidate, model: Callable[..., Any], data: TaskData, settings: Settings
) -> dict[str, float]:
    """The metrics that ``model`` reaches, the candidate's own or its engine; none without training."""
    from prumux.data.loading import tokenize

    if candidate.tokenizer is None:
        return {}
    config: Any = candidate.model.config
    labels = None if data.label_names is None else config.label2id
    return evaluate(
        model,
        tokenize(data, candidate.tokenizer, settings.max_seq_length, labels),
        candidate.tokenizer,
        batch_size=settings.batch_size * instances(candidate.model),
        num_groupings=settings.num_groupings,
        seed=settings.seed,
        pad_to_length=None if settings.dynamic_padding else settings.max_seq_length,
        num_instances=instances(candidate.model),
        ensemble=_if_multiplexed(candidate.model, settings.ensemble),
        average_groupings=settings.average_groupings,
        group_by_length=settings.group_by_length,
    )


def _operations(model: Any, length: int) -> float | None:
    """Counted operations of an example, ``None`` for a model of another library."""
    return cost(model, length=length).total if isinstance(model, PrumuxClassifier) else None


def config_layers(model: Any) -> int:
    """Layers of the encoder before pruning."""
    return int(model.config.num_hidden_layers)


def _if_multiplexed(model: Any, times: int) -> int:
    """How often an example is read; once where nothing is multiplexed."""
    return times if instances(model) > 1 else 1
