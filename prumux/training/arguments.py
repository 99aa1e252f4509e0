"""The flags of run_glue.py as dataclasses, the recipe files that give their defaults, and their checks."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from prumux.data.tasks import get_task
from prumux.errors import UserError
from prumux.models.demultiplexers import DEMULTIPLEXERS, DEMUXING_ALIASES
from prumux.models.loading import FIXED_BY_WEIGHTS
from prumux.models.multiplexers import MULTIPLEXERS, MUXING_ALIASES
from prumux.pruning.distillation import VERSIONS
from prumux.pruning.l0 import families_of

SETTINGS = ("baseline", "retrieval_pretraining", "mlm_pretraining", "finetuning", "pruning")
PRETRAINING = ("retrieval_pretraining", "mlm_pretraining")
MADE_WITH = (*FIXED_BY_WEIGHTS, "separate_instances")
CRITERIA = ("l0", "gradient")  # learned gates (CoFi), or scores by the gradient (GRAIN)
INITIAL_GATES = ("uniform", "fisher")
SMALL_TASKS = ("MRPC", "RTE", "STS-B", "CoLA")  # the papers train these longer
MAX_SPARSITY = 0.99
MAX_SPEEDUP = 100


@dataclass
class ModelArguments:
    """Which model, and how it multiplexes. What is not given comes from the checkpoint."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Weights to start from: folder or hub name.", "aliases": ["--model_path"]},
    )
    config_name: str | None = field(
        default=None,
        metadata={
            "help": "Architecture (JSON file); random weights. Needs --tokenizer_name except for toy tasks."
        },
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Default: the model's."})
    num_instances: int | None = field(default=None, metadata={"help": "N, inputs mixed into one sequence."})
    muxing_variant: str | None = field(
        default=None, metadata={"help": f"One of {', '.join((*MULTIPLEXERS, *MUXING_ALIASES))}."}
    )
    demuxing_variant: str | None = field(
        default=None, metadata={"help": f"One of {', '.join((*DEMULTIPLEXERS, *DEMUXING_ALIASES))}."}
    )
    num_hidden_demux_layers: int | None = field(
        default=None, metadata={"help": "Layers of the index_pos demultiplexer."}
    )
    gaussian_hadamard_norm: float | None = field(
        default=None, metadata={"help": "Norm of new multiplexing vectors."}
    )
    binary_hadamard_epsilon: float | None = field(
        default=None, metadata={"help": "Overlap of new 0/1 vectors."}
    )
    learn_muxing: bool | None = field(default=None, metadata={"help": "Train the multiplexing vectors."})
    retrieval_percentage: float | None = field(
        default=None, metadata={"help": "Share of positions in retrieval loss."}
    )
    retrieval_loss_coeff: float | None = field(
        default=None, metadata={"help": "Weight of the retrieval loss."}
    )
    task_loss_coeff: float | None = field(default=None, metadata={"help": "Weight of the task loss."})
    attend_padding: bool | None = field(
        default=None, metadata={"help": "Attend padding as the authors' models do."}
    )
    embed_twice: bool | None = field(
        default=None, metadata={"help": "Second embedding pass over the mixture."}
    )
    num_hidden_layers: int | None = field(
        default=None, metadata={"help": "Start from the first layers of an unpruned model only."}
    )
    hidden_dropout_prob: float | None = field(
        default=None, metadata={"help": "Dropout of embeddings, blocks and demultiplexer."}
    )
    attention_probs_dropout_prob: float | None = field(
        default=None, metadata={"help": "Dropout of the attention's weights."}
    )
    separate_instances: bool = field(
        default=False,
        metadata={
            "help": "Start as N narrow encoders side by side (binary_hadamard): copies of a model pruned with "
            "--narrow_for, or cut out of an unpruned one."
        },
    )

    NOT_IN_CONFIG = ("model_name_or_path", "config_name", "tokenizer_name", "separate_instances")

    def overrides(self) -> dict[str, Any]:
        """The configuration values that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.NOT_IN_CONFIG}
        return {name: value for name, value in values.items() if value is not None}


@dataclass
class DataArguments:
    """Which data."""

    task_name: str | None = field(
        default=None,
        metadata={
            "help": "GLUE task, NER, toy or toy-nli; wikitext in pretraining; a name for your own files."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder in GLUE's file layout, or of CoNLL files, instead of the hub."},
    )
    train_file: str | None = field(default=None, metadata={"help": "Your own CSV, TSV or JSON file."})
    validation_file: str | None = field(default=None, metadata={"help": "Your own CSV, TSV or JSON file."})
    tag_words: bool = field(
        default=False, metadata={"help": "The data are words with tags: train a token classifier."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longer inputs are truncated."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first rows."})
    megabatch: int = field(
        default=50,
        metadata={
            "help": "Batches sorted by length together, so that a group's rows are alike; 0: any rows meet."
        },
    )
    num_groupings: int = field(default=1, metadata={"help": "Groupings over which accuracy is averaged."})
    line_by_line: bool = field(
        default=False, metadata={"help": "A line of plain text is a row, instead of packing lines."}
    )
    mlm_probability: float = field(
        default=0.15, metadata={"help": "Share of tokens masked in mlm_pretraining."}
    )
    stop_at_retrieval_accuracy: float | None = field(
        default=None,
        metadata={"help": "End the warm-up when an evaluation reaches this share, such as 0.99."},
    )


@dataclass
class PruningArguments:
    """Phase, pruning and distillation."""

    setting: str = field(default="finetuning", metadata={"help": f"One of {', '.join(SETTINGS)}."})
    recipe: str | None = field(
        default=None, metadata={"help": "YAML file with defaults for these flags, by phase."}
    )
    groups_per_batch: int | None = field(
        default=None, metadata={"help": "Batch in groups: groups * N rows per device."}
    )
    pruning_type: str = field(
        default="structured_heads+structured_mlp+hidden+layer",
        metadata={
            "help": "What may be pruned, joined by +: structured_heads, structured_mlp, hidden, layer."
        },
    )
    pruning_criterion: str = field(
        default="l0",
        metadata={"help": f"What decides which units go, one of: {', '.join(CRITERIA)} (docs/recipe.md)."},
    )
    initial_gates: str = field(
        default="uniform",
        metadata={"help": f"Where the l0 gates start, one of: {', '.join(INITIAL_GATES)}."},
    )
    target_sparsity: list[float] = field(
        default_factory=lambda: [0.6],
        metadata={
            "help": "Share of the encoder's parameters to remove; several in ascending order are reached one after the "
            "other in one run.",
        },
    )
    target_speedup: float | None = field(
        default=None,
        metadata={
            "help": "Instead of a sparsity: how many times faster the encoder shall be, by times measured here."
        },
    )
    narrow_for: int | None = field(
        default=None,
        metadata={
            "help": "Instead of a sparsity: prune every layer alike, so that so many copies fit side by side "
            "(--separate_instances)."
        },
    )
    round_to: int = field(
        default=1, metadata={"help": "Keep FFN and hidden dimensions in multiples of this."}
    )
    sparsity_epsilon: float = field(
        default=0.01, metadata={"help": "How far from the target the pruned model may be."}
    )
    prepruning_finetune_epochs: float = field(
        default=0, metadata={"help": "Epochs before the gates are used."}
    )
    lagrangian_warmup_epochs: float = field(default=2, metadata={"help": "Epochs in which the target rises."})
    reg_learning_rate: float = field(
        default=0.01, metadata={"help": "Learning rate of gates and multipliers."}
    )
    droprate_init: float = field(
        default=0.5, metadata={"help": "Drop rate at which the gates of FFN dimensions start."}
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of demultiplexer and classifier. Default: --learning_rate."},
    )
    freeze_embeddings: bool = field(default=False, metadata={"help": "Don't train the embedding layer."})
    distillation_path: str | None = field(
        default=None,
        metadata={"help": "Teacher. In pruning default: the starting checkpoint.", "aliases": ["--teacher"]},
    )
    distill_states: bool | None = field(
        default=None,
        metadata={
            "help": "Learn every token's last state instead of layers. Default: from an unmultiplexed teacher of a "
            "multiplexed student."
        },
    )
    keep_teacher_gb: float = field(
        default=4.0,
        metadata={
            "help": "Memory for an unmultiplexed teacher's states, which later epochs use again (0: none)."
        },
    )
    teacher_states: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which those states are kept for other runs with the same teacher (rounded to bfloat16)."
        },
    )
    distill_temp: float = field(default=2.0, metadata={"help": "Temperature of logit distillation."})
    distill_layer_loss_alpha: float = field(default=0.9, metadata={"help": "Weight of layer distillation."})
    distill_state_loss_alpha: float = field(
        default=1.0, metadata={"help": "Weight of every token's state (--distill_states)."}
    )
    distill_task_loss_alpha: float = field(
        default=0.0, metadata={"help": "Weight of the labels beside a teacher."}
    )
    distill_ce_loss_alpha: float = field(default=0.1, metadata={"help": "Weight of logit distillation."})
    layer_distill_version: int = field(
        default=4, metadata={"help": "Which layers are matched, 2 to 6: see docs/method.md."}
    )

    @property
    def targets(self) -> tuple[float, ...]:
        """The shares of the encoder's cost to remove, one after the other: of its parameters, or of its time."""
        return tuple(self.target_sparsity) if self.target_speedup is None else (1 - 1 / self.target_speedup,)


# Flags of TrainingArguments that nothing here reads.
UNSUPPORTED = (
    "label_smoothing_factor",
    "resume_from_checkpoint",
    "data_seed",
    "do_predict",
    "activation_checkpointing",
    "gradient_checkpointing",
)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")


@dataclass(frozen=True)
class Arguments:
    """All flags of one run."""

    model: ModelArguments
    data: DataArguments
    pruning: PruningArguments
    training: TrainingArguments
    recipe: dict[str, Any] = field(default_factory=dict)  # the defaults that the recipe gave


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
        dataloader_pin_memory=False,
    )
    switches = {f.name for kind in kinds for f in fields(kind) if f.type in ("bool | None", bool | None)}
    for action in parser._actions:
        if action.dest in switches:  # --flag alone means true, as for the flags that have a default
            action.nargs, action.const = "?", True
    first, _ = parser.parse_known_args(list(argv))
    instances = first.num_instances or _instances_of(first.model_name_or_path) or 1
    recipe = {} if first.recipe is None else _recipe_defaults(first, parser, instances)
    parser.set_defaults(**recipe)
    parsed = parser.parse_args(list(argv))
    given = {argument.partition("=")[0].replace("-", "_") for argument in argv}  # --like-this works too
    if parsed.groups_per_batch is not None and "__per_device_train_batch_size" not in given:
        parsed.per_device_train_batch_size = parsed.groups_per_batch * instances
    if "__num_train_epochs" in given and "__max_steps" not in given:
        parsed.max_steps = -1  # the recipe's steps don't overrule the epochs of the command line
    if not torch.accelerator.is_available():
        parsed.use_cpu = True  # what Transformers wants to be told before it allows bf16 on a CPU
    if isinstance(parsed.target_sparsity, float):  # from a recipe
        parsed.target_sparsity = [parsed.target_sparsity]
    _check(parsed)
    try:
        model, data, pruning, training = parser.parse_dict(vars(parsed), allow_extra_keys=True)
    except (ValueError, TypeError) as error:
        raise UserError(f"wrong training arguments: {error}") from error
    return Arguments(model, data, pruning, training, recipe)


def _recipe_defaults(first: Any, parser: HfArgumentParser, instances: int) -> dict[str, Any]:
    path = Path(first.recipe)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"can't read the recipe {path} ({error}): expected a YAML file with a section per phase"
        ) from error
    name = first.setting
    if name == "baseline":
        name = "finetuning"
    elif name == "finetuning" and first.distillation_path is not None and _may_be_pruned(first):
        name = "finetuning_pruned"
    elif name == "finetuning" and first.distillation_path is not None and instances == 1:
        name = "distillation" if isinstance(recipe, dict) and "distillation" in recipe else name
    if isinstance(recipe, dict) and name not in recipe:
        raise UserError(f"recipe {path} has no section '{name}', only: {', '.join(map(str, recipe))}")
    section = _mapping(recipe, name, path)
    overrides = {
        key: _mapping(section, key, path)
        for key in section
        if re.fullmatch(r"num_instances_\d+|small_tasks", str(key))
    }
    section = {flag: value for flag, value in section.items() if flag not in overrides}
    section |= overrides.get(f"num_instances_{instances}", {})
    multiplexed = (_local_config(first.model_name_or_path) or {}).get("num_instances", 1) > 1
    other = first.muxing_variant is not None and first.muxing_variant != section.get("muxing_variant")
    if multiplexed or other or first.model_name_or_path is None:
        # how a model multiplexes is settled by its weights or by the user; a recipe says how to make one of a plain one
        section = {flag: value for flag, value in section.items() if flag not in MADE_WITH}
    if first.task_name and get_task_name(first.task_name) in SMALL_TASKS:
        section |= overrides.get("small_tasks", {})
    known = {action.dest for action in parser._actions} - {"help", "recipe", "setting"}
    for flag, value in section.items():
        if flag not in known:
            raise UserError(f"recipe {path}, section {name}: unknown flag '{flag}', see run_glue.py --help")
        if not isinstance(value, str | int | float):
            raise UserError(f"recipe {path}, section {name}: {flag} is {value}, expected a single value")
    return {
        flag: str(value) for flag, value in section.items()
    }  # as text: checked like the command line's values


def _may_be_pruned(first: Any) -> bool:
    """Is the run's start a pruned model, or one of which that can't be read here."""
    fields = _local_config(first.model_name_or_path)
    return fields is None or fields.get("kept_heads") is not None


def _local_config(model_path: str | None) -> dict[str, Any] | None:
    """The configuration of a folder; ``None`` for models on the hub and whatever loading will complain about."""
    try:
        fields = json.loads((Path(model_path or "") / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def _instances_of(model_path: str | None) -> int | None:
    """N of a checkpoint folder, ``None`` where it doesn't say."""
    try:
        return int((_local_config(model_path) or {})["num_instances"])
    except (ValueError, KeyError, TypeError):
        return None


def _mapping(parent: Any, name: str, path: Path) -> dict[str, Any]:
    """The entry ``name`` of a recipe's mapping, empty where there is none."""
    value = parent.get(name) if isinstance(parent, dict) else parent
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"recipe {path}: expected a mapping of flags to values under '{name}', found {value}")
    return dict(value)


def get_task_name(name: str) -> str:
    """The canonical spelling of a task, or the name itself for the user's own data."""
    try:
        return get_task(name).name
    except UserError:
        return name


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
        copies is None or ((n or 1) == 1 and speedup is None),
        "narrow_for",
        "nothing beside --target_speedup or --num_instances 2 and more: it prunes a plain model",
    )
    require(values.round_to >= 1, "round_to", "a whole number of at least 1")
    require(0 < values.sparsity_epsilon < 1, "sparsity_epsilon", "a share between 0 and 1")
    require(0 < values.droprate_init < 1, "droprate_init", "a share between 0 and 1")
    require(values.distill_temp > 0, "distill_temp", "a positive temperature")
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
    for flag in ("prepruning_finetune_epochs", "lagrangian_warmup_epochs"):
        require(0 <= getattr(values, flag) < math.inf, flag, "0 or more epochs")
    alphas = [f"distill_{term}_loss_alpha" for term in ("layer", "state", "task", "ce")]
    for flag in ("keep_teacher_gb", "learning_rate", "reg_learning_rate", *alphas):
        require(0 <= getattr(values, flag) < math.inf, flag, "0 or more")
    for flag in ("retrieval_loss_coeff", "task_loss_coeff"):
        coefficient = getattr(values, flag)
        require(coefficient is None or 0 <= coefficient < math.inf, flag, "0 or more")
    rate = values.head_learning_rate
    require(rate is None or 0 <= rate < math.inf, "head_learning_rate", "0 or more")
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
        families_of(values.pruning_type)
    except ValueError as error:
        raise UserError(f"--pruning_type: {error}") from error
    if values.task_name is None and values.train_file is None and values.validation_file is None:
        raise UserError("no data: give --task_name, or --train_file and --validation_file")


def command_line() -> str:
    """The command that started this process, for the records."""
    return " ".join(["python", *sys.argv])
