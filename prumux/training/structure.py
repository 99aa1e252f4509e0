"""What a run prunes by (criterion, cost, targets), and starting as narrow copies side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from prumux.data.grouping import GroupingCollator
from prumux.data.loading import TaskData
from prumux.errors import UserError
from prumux.inference.hardware import DTYPES
from prumux.models.architecture import read_config
from prumux.models.heads import PrumuxForTokenClassification
from prumux.models.loading import Model, load_model
from prumux.models.modeling import PrumuxModel, PrumuxPreTrainedModel
from prumux.models.partition import put_side_by_side
from prumux.pruning.accounting import Cost
from prumux.pruning.compaction import compact
from prumux.pruning.gates import Gates
from prumux.pruning.l0 import L0Gates
from prumux.pruning.latency import Latency, measure
from prumux.pruning.scores import ScoreGates, UniformGates, fisher_scores, start_from
from prumux.pruning.snapping import snap
from prumux.reports.provenance import write_json
from prumux.training.arguments import Arguments, DataArguments, precision
from prumux.training.folder import LATENCY_FILE, NARROW, split_flags
from prumux.training.recipes import instances_of, is_pruned

FISHER_BATCHES = 50
UNPRUNED: dict[str, Any] = {"kept_heads": None, "kept_intermediate": None, "kept_hidden": None}
SHARED = {f.name for f in fields(DataArguments)} | {  # flags that a multiplexed and a narrow run have in common
    "model_name_or_path", "model_path", "tokenizer_name", "num_hidden_layers", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "attend_padding", "recipe", "distillation_path", "teacher", "teacher_states",
    "keep_teacher_gb", "replace_tokens", "distill_temp", "distill_state_loss_alpha", "distill_ce_loss_alpha",
    "distill_task_loss_alpha", "freeze_embeddings", "do_train", "do_eval", "seed", "bf16", "fp16", "use_cpu",
    "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps", "save_strategy", "save_steps",
    "logging_steps", "disable_tqdm", "report_to", "dataloader_num_workers",
}  # fmt: skip
OF_MULTIPLEXING = ("muxing_variant", "binary_hadamard_epsilon", "gaussian_hadamard_norm", "learn_muxing")


def build_gates(
    arguments: Arguments,
    model: PrumuxPreTrainedModel,
    data: TaskData,
    collator: GroupingCollator,
    length: int,
) -> tuple[Gates, Sequence[float]]:
    """The criterion by which this run prunes, and its targets as shares of the cost; ``length``: tokens of a row.

    Raises:
        UserError: a pruning type without the units that the criterion needs.
    """
    flags, config = arguments.pruning, model.config
    if flags.narrow_for is not None:
        _check_plain(arguments, model)
        uniform = UniformGates(config)
        try:
            return uniform, (uniform.narrow(flags.narrow_for),)
        except ValueError as error:
            raise UserError(f"--narrow_for {flags.narrow_for}: {error}") from error
    try:
        cost = _cost(arguments, model, length)
        if flags.pruning_criterion == "gradient":
            return ScoreGates(config, pruning_type=flags.pruning_type, cost=cost), flags.targets
        gates = L0Gates(config, pruning_type=flags.pruning_type, droprate_init=flags.droprate_init, cost=cost)
        if flags.initial_gates == "fisher":
            scores = ScoreGates(config, pruning_type=flags.pruning_type, cost=cost)
            nn.Module.to(model, arguments.training.device)  # where the Trainer wants it anyway
            fisher_scores(scores, model, _batches(arguments, data, collator))
            start_from(gates, scores, flags.targets[0])
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--pruning_type: {error}") from error
    return gates, flags.targets


def _cost(arguments: Arguments, model: PrumuxPreTrainedModel, length: int) -> Cost:
    """What the target is a share of."""
    training = arguments.training
    if arguments.pruning.target_speedup is None:
        return Cost(model.config)
    path = Path(str(training.output_dir)) / LATENCY_FILE
    dtype = DTYPES[precision(training)]
    conditions: dict[str, Any] = {"length": length, "device": training.device, "dtype": dtype}
    with training.main_process_first(local=False, desc="timing blocks"):  # all prune by one table
        # a resumed run goes on with the same times
        if training.process_index == 0 and not Latency.is_of(path, model.config, **conditions):
            write_json(path, measure(model.config, **conditions))
    encoder = _encoder(model)
    tags = isinstance(model, PrumuxForTokenClassification)
    read = (encoder.first_position + 1) / (length + encoder.prefix_length)
    return Latency.read(model.config, path, 1.0 if tags else read)


def _batches(
    arguments: Arguments, data: TaskData, collator: GroupingCollator
) -> Iterator[dict[str, torch.Tensor]]:
    """Some batches of the training data, to score units by."""
    assert data.train is not None  # scores are for runs that train
    batch = arguments.training.per_device_train_batch_size
    loader = DataLoader(
        data.train.shuffle(seed=arguments.training.seed),
        batch_size=batch,
        collate_fn=collator,
        drop_last=len(data.train) >= batch,
    )
    return itertools.islice(loader, FISHER_BATCHES)


# ---- copies side by side


def narrow_flags(argv: Sequence[str], arguments: Arguments) -> list[str] | None:
    """The command line of the run that comes before this one, ``None`` without ``--narrow_first``.

    What it has in common with this run it is told; how it learns is up to the recipe's section ``narrow``. Nothing
    comes before copies of a model that is narrow already, or where no unmultiplexed model teaches.
    """
    model, training = arguments.model, arguments.training
    copies, start = model.num_instances or 1, model.model_name_or_path
    teacher = arguments.pruning.distillation_path
    wanted = model.separate_instances and model.narrow_first and training.do_train and copies > 1
    if not wanted or start is None or teacher is None or is_pruned(start) or (instances_of(teacher) or 1) > 1:
        return None
    kept = [flag for flag in split_flags(argv) if flag[0].removeprefix("--") in SHARED]
    return [
        *itertools.chain.from_iterable(kept),
        *("--setting", "finetuning", "--num_instances", "1", "--narrow_for", str(copies)),
        *("--distill_states", "True", "--separate_instances", "False", "--narrow_first", "False"),
        *("--output_dir", str(Path(str(training.output_dir)) / NARROW)),
    ]


def narrowed(arguments: Arguments, model: Model, data: TaskData, tokenizer: PreTrainedTokenizerBase) -> Model:
    """``model`` cut to what ``--narrow_for`` leaves of it.

    Raises:
        UserError: it is multiplexed, pruned already, or has fewer units than copies.
    """
    _check_plain(arguments, model)
    copies = arguments.pruning.narrow_for
    assert copies is not None  # asked for
    if model.config.is_pruned:
        raise UserError(
            f"--narrow_for cuts an unpruned model, {arguments.model.model_name_or_path} is pruned: leave it out"
        )
    try:
        return _cut(arguments, model, copies, data, tokenizer)
    except ValueError as error:
        raise UserError(f"--narrow_for {copies}: {error}") from error


def _check_plain(arguments: Arguments, model: PrumuxPreTrainedModel) -> None:
    if model.config.is_multiplexed:
        raise UserError(
            f"--narrow_for prunes a plain model, {arguments.model.model_name_or_path} is multiplexed: start from "
            "one without multiplexing"
        )


def empty_model(
    kind: type[Any], path: str, overrides: Mapping[str, Any], label_names: Sequence[str] | None
) -> Any:
    """A model with new weights in the shape that the checkpoint ``path`` had before any pruning.

    Raises:
        UserError: the checkpoint is multiplexed, or can't be read.
    """
    fields = read_config(path)
    if fields.get("num_instances", 1) > 1:
        raise UserError(
            f"--separate_instances starts from a plain model, {path} is multiplexed: leave the flag out"
        )
    width = fields.get("dense_hidden_size") or fields.get("hidden_size")
    shape = UNPRUNED | ({"hidden_size": width} if width else {})
    return load_model(kind, config_path=path, overrides={**shape, **overrides}, label_names=label_names)


def start_side_by_side(
    arguments: Arguments, model: PrumuxPreTrainedModel, data: TaskData, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Fill ``model`` with narrow copies of the checkpoint it starts from.

    One that isn't pruned is cut at once, to the units whose removal its predictions would feel most.

    Raises:
        UserError: no checkpoint, or one whose copies don't fit.
    """
    path = arguments.model.model_name_or_path
    if path is None:
        raise UserError("--separate_instances starts from a model: give --model_name_or_path")
    given = arguments.model.overrides()
    plain = load_model(
        type(model),
        model_path=path,
        overrides={
            name: value for name, value in given.items() if name not in ("num_instances", *OF_MULTIPLEXING)
        },
        label_names=data.label_names,
    )
    try:
        copies = model.config.num_instances
        narrow = plain if plain.config.is_pruned else _cut(arguments, plain, copies, data, tokenizer)
        put_side_by_side(_encoder(model), _encoder(narrow))
    except ValueError as error:
        raise UserError(f"--separate_instances: {error}") from error


def _encoder(model: PrumuxPreTrainedModel) -> PrumuxModel:
    assert isinstance(model.bert, PrumuxModel)  # every model with a head has one
    return model.bert


def _cut(
    arguments: Arguments,
    plain: Model,
    copies: int,
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
) -> Model:
    """The largest narrow model of ``plain`` of which so many copies fit side by side, by its units' Fisher scores."""
    gates = UniformGates(plain.config)
    nn.Module.to(plain, arguments.training.device)
    fisher_scores(gates, plain, _batches(arguments, data, GroupingCollator(tokenizer, 1)))
    plain.cpu()
    return compact(plain, snap(gates, gates.narrow(copies), arguments.pruning.sparsity_epsilon))
