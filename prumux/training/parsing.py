"""`parse_arguments`: a command line, over its recipe, over the defaults; checked before anything is loaded."""

from __future__ import annotations

import itertools
import logging
import math
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from prumux.errors import Parser, UserError
from prumux.inference.hardware import has_bfloat16, warn_if_emulated
from prumux.pruning.accounting import MAX_SPARSITY
from prumux.pruning.distillation import VERSIONS
from prumux.pruning.l0 import families_of
from prumux.pruning.scores import SCORED
from prumux.training.arguments import (
    CRITERIA,
    INITIAL_GATES,
    PRETRAINING,
    SETTINGS,
    Arguments,
    DataArguments,
    ModelArguments,
    PruningArguments,
)
from prumux.training.recipes import instances_of, recipe_defaults

MAX_SPEEDUP = 100
AUTO = "auto"  # of --bf16: where the hardware computes with it

# Flags of TrainingArguments that nothing here reads.
UNSUPPORTED = (
    "label_smoothing_factor",
    "resume_from_checkpoint",
    "data_seed",
    "do_predict",
    "activation_checkpointing",
    "gradient_checkpointing",
    "load_best_model_at_end",  # OUTPUT_DIR/best is the best model anyway, by the task's own metric
    "metric_for_best_model",
    "greater_is_better",
)
logger = logging.getLogger(__name__)


class _Parser(Parser, HfArgumentParser):
    pass


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Flags over recipe over defaults.

    Raises:
        UserError: unknown flags, values out of range, an unreadable recipe.
    """
    # no abbreviations: they would hide from the checks below which flags were given
    # Any: transformers declares its argument as a NewType that no class matches
    kinds: Any = (ModelArguments, DataArguments, PruningArguments, TrainingArguments)
    parser = _Parser(kinds, allow_abbrev=False)
    parser.set_defaults(
        output_dir="out/run",
        report_to="none",
        save_total_limit=1,
        remove_unused_columns=False,
        seed=57,
        logging_steps=50,
        eval_strategy="epoch",
        dataloader_pin_memory=torch.accelerator.is_available(),
    )
    switches = {f.name for kind in kinds for f in fields(kind) if f.type in ("bool | None", bool | None)}
    for action in parser._actions:
        if action.dest in switches:  # --flag alone means true, as for the flags that have a default
            action.nargs, action.const = "?", True
        if action.dest == "bf16":
            action.type = _bfloat16
            action.help = f"{action.help} {AUTO}: where the hardware has it, else float32.".strip()
    first, _ = parser.parse_known_args(list(argv))
    instances = first.num_instances or instances_of(first.model_name_or_path) or 1
    known = {action.dest for action in parser._actions} - {"help", "recipe", "setting"}
    recipe = {} if first.recipe is None else recipe_defaults(first, known, instances)
    parser.set_defaults(**recipe)
    parsed = parser.parse_args(list(argv))
    given = {argument.partition("=")[0].replace("-", "_") for argument in argv}  # --like-this works too
    if parsed.groups_per_batch is not None and "__per_device_train_batch_size" not in given:
        parsed.per_device_train_batch_size = parsed.groups_per_batch * instances
    if "__num_train_epochs" in given and "__max_steps" not in given:
        parsed.max_steps = -1  # the recipe's steps don't overrule the epochs of the command line
    if "__lagrangian_warmup_epochs" in given and "__lagrangian_warmup_ratio" not in given:
        parsed.lagrangian_warmup_ratio = None  # nor does its ratio
    if parsed.distill_task_loss_alpha > 0 and "__replace_tokens" not in given:
        parsed.replace_tokens = 0.0  # labels are of the rows as they are
    if not torch.accelerator.is_available():
        parsed.use_cpu = True  # what Transformers wants to be told before it allows bf16 on a CPU
    accelerator = None if parsed.use_cpu else torch.accelerator.current_accelerator()
    device = accelerator or torch.device("cpu")
    if parsed.bf16 == AUTO:
        parsed.bf16 = not parsed.fp16 and has_bfloat16(device)
    elif parsed.bf16:
        warn_if_emulated(torch.bfloat16, device)
    if isinstance(parsed.target_sparsity, float):  # from a recipe
        parsed.target_sparsity = [parsed.target_sparsity]
    _check(parsed)
    try:
        model, data, pruning, training = parser.parse_dict(vars(parsed), allow_extra_keys=True)
    except (ValueError, TypeError) as error:
        raise UserError(f"wrong training arguments: {error}") from error
    if training.n_gpu > 1:  # Transformers would split batches between them by rows, not by groups
        logger.warning(
            "%d GPUs are visible, one is used: start with torchrun --nproc_per_node %d for all of them",
            training.n_gpu,
            training.n_gpu,
        )
        training._n_gpu = 1
    return Arguments(model, data, pruning, training, recipe)


def _bfloat16(value: str) -> bool | str:
    """The value of --bf16."""
    if value.lower() == AUTO:
        return AUTO
    try:
        return string_to_bool(value)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"expected true, false or {AUTO}, got {value!r}") from None


def _check(values: Any) -> None:
    """One clear line for values out of range."""

    def require(condition: bool, flag: str, expected: str) -> None:
        if not condition:
            raise UserError(f"--{flag} is {getattr(values, flag)}, expected {expected}")

    require(values.setting in SETTINGS, "setting", f"one of: {', '.join(SETTINGS)}")
    n = values.num_instances
    require(n is None or n >= 1, "num_instances", "a whole number of at least 1")
    require(values.setting != "baseline" or (n or 1) == 1, "num_instances", "1 with --setting baseline")
    targets = values.target_sparsity
    for target in targets:
        if not 0 <= target <= MAX_SPARSITY:
            raise UserError(f"--target_sparsity is {target}, expected a share from 0 to {MAX_SPARSITY}")
    require(all(a < b for a, b in itertools.pairwise(targets)), "target_sparsity", "ascending shares")
    require(values.pruning_criterion in CRITERIA, "pruning_criterion", f"one of: {', '.join(CRITERIA)}")
    require(values.initial_gates in INITIAL_GATES, "initial_gates", f"one of: {', '.join(INITIAL_GATES)}")
    speedup = values.target_speedup
    require(speedup is None or 1 <= speedup <= MAX_SPEEDUP, "target_speedup", f"1 to {MAX_SPEEDUP} times")
    copies = values.narrow_for
    require(copies is None or copies >= 2, "narrow_for", "2 or more copies")
    require(
        copies is None or values.setting in ("finetuning", "pruning"),
        "narrow_for",
        "nothing outside --setting finetuning and pruning",
    )
    require(copies is None or values.do_train, "narrow_for", "nothing without --do_train")
    require(
        not values.separate_instances or values.setting not in PRETRAINING,
        "separate_instances",
        f"False with --setting {values.setting}: copies side by side are told apart without it",
    )
    require(
        copies is None or ((n or 1) == 1 and speedup is None),
        "narrow_for",
        "nothing beside --target_speedup or --num_instances 2 and more: it prunes a plain model",
    )
    require(values.round_to >= 1, "round_to", "a whole number of at least 1")
    require(0 < values.sparsity_epsilon < 1, "sparsity_epsilon", "a share between 0 and 1")
    require(0 < values.droprate_init < 1, "droprate_init", "a share between 0 and 1")
    require(0 < values.distill_temp < math.inf, "distill_temp", "a positive temperature")
    versions = ", ".join(map(str, VERSIONS))
    require(values.layer_distill_version in VERSIONS, "layer_distill_version", f"one of: {versions}")
    require(values.megabatch >= 0, "megabatch", "0 or more batches")
    require(values.num_groupings >= 1, "num_groupings", "a whole number of at least 1")
    require(0 <= values.seed < 2**32, "seed", "a whole number from 0 to 2^32 - 1")
    require(values.max_seq_length >= 4, "max_seq_length", "at least 4 tokens")
    layers = values.num_hidden_demux_layers
    require(layers is None or layers >= 2, "num_hidden_demux_layers", "at least 2")
    for flag in UNSUPPORTED:
        if getattr(values, flag, None):
            raise UserError(f"--{flag} is not supported here: leave it out")
    for flag, wrong, others in (
        ("save_strategy", "best", "steps, epoch or no"),  # OUTPUT_DIR/best is the best model anyway
        ("lr_scheduler_type", "reduce_lr_on_plateau", "linear, constant or cosine"),
    ):
        value = getattr(values, flag)
        if getattr(value, "value", value) == wrong:
            raise UserError(f"--{flag} {wrong} is not supported here: choose {others}")
    for flag in ("prepruning_finetune_epochs", "lagrangian_warmup_epochs"):
        require(0 <= getattr(values, flag) < math.inf, flag, "0 or more epochs")
    alphas = [f"distill_{term}_loss_alpha" for term in ("layer", "state", "task", "ce")]
    ratio = values.lagrangian_warmup_ratio
    require(ratio is None or 0 <= ratio <= 1, "lagrangian_warmup_ratio", "a share from 0 to 1")
    for flag in ("keep_teacher_gb", "learning_rate", "reg_learning_rate", *alphas):
        require(0 <= getattr(values, flag) < math.inf, flag, "0 or more")
    by_gradient = values.setting == "pruning" and values.pruning_criterion == "gradient"
    require(
        not by_gradient or values.distill_ce_loss_alpha + values.distill_task_loss_alpha > 0,
        "distill_ce_loss_alpha",
        "more than 0 (or --distill_task_loss_alpha): --pruning_criterion gradient scores by these two losses",
    )
    require(
        not by_gradient or values.initial_gates == "uniform",
        "initial_gates",
        "uniform: --pruning_criterion gradient has no gates to start",
    )
    require(
        values.teacher_states is None or values.keep_teacher_gb > 0,
        "keep_teacher_gb",
        "more than 0 with --teacher_states",
    )
    require(0 <= values.replace_tokens < 1, "replace_tokens", "a share from 0 to below 1")
    require(
        values.replace_tokens == 0 or values.distill_task_loss_alpha == 0,
        "replace_tokens",
        "0 beside --distill_task_loss_alpha: labels are of the rows as they were",
    )
    for flag in ("retrieval_loss_coeff", "task_loss_coeff"):
        coefficient = getattr(values, flag)
        require(coefficient is None or 0 <= coefficient < math.inf, flag, "0 or more")
    for flag in ("head_learning_rate", "multiplier_learning_rate"):
        rate = getattr(values, flag)
        require(rate is None or 0 <= rate < math.inf, flag, "0 or more")
    for flag in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        dropout = getattr(values, flag)
        require(dropout is None or 0 <= dropout < 1, flag, "a share from 0 to below 1")
    share = values.retrieval_percentage
    require(share is None or 0 < share <= 1, "retrieval_percentage", "a share above 0 up to 1")
    solved = values.stop_at_retrieval_accuracy
    require(solved is None or 0 < solved <= 1, "stop_at_retrieval_accuracy", "a share above 0 up to 1")
    require(
        solved is None or values.setting in PRETRAINING,
        "stop_at_retrieval_accuracy",
        "nothing outside --setting retrieval_pretraining and mlm_pretraining",
    )
    require(0 < values.mlm_probability <= 1, "mlm_probability", "a share above 0 up to 1")
    require(
        values.max_steps > 0 or 0 < values.num_train_epochs < math.inf,
        "num_train_epochs",
        "more than 0 epochs",
    )
    groups = values.groups_per_batch
    require(groups is None or groups >= 1, "groups_per_batch", "a whole number of at least 1")
    for flag in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        require(getattr(values, flag) >= 1, flag, "a whole number of at least 1")
    batch, instances = values.per_device_train_batch_size, n or 1
    require(
        batch % instances == 0,
        "per_device_train_batch_size",
        f"a multiple of --num_instances {instances} (rows)",
    )
    try:
        families = families_of(values.pruning_type)
    except ValueError as error:
        raise UserError(f"--pruning_type: {error}") from error
    require(
        copies is None or set(SCORED) <= set(families),
        "pruning_type",
        "one with structured_heads, structured_mlp and hidden beside --narrow_for: a narrow model has less of each",
    )
    if values.task_name is None and values.train_file is None and values.validation_file is None:
        raise UserError("no data: give --task_name, or --train_file and --validation_file")
