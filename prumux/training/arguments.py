"""The flags of run_glue.py as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments

from prumux.models.demultiplexers import DEMULTIPLEXERS, DEMUXING_ALIASES
from prumux.models.multiplexers import MULTIPLEXERS, MUXING_ALIASES

SETTINGS = ("baseline", "retrieval_pretraining", "mlm_pretraining", "finetuning", "pruning")
PRETRAINING = ("retrieval_pretraining", "mlm_pretraining")
CRITERIA = ("l0", "gradient")  # learned gates (CoFi), or scores by the gradient (GRAIN)
INITIAL_GATES = ("uniform", "fisher")


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
            "help": "Start as N narrow encoders side by side (binary_hadamard): copies of a model made with "
            "--narrow_for, or cut out of an unpruned one."
        },
    )
    narrow_first: bool = field(
        default=False,
        metadata={
            "help": "With --separate_instances and a teacher: the encoder that is cut out learns from the teacher by "
            "itself before it is copied (in OUTPUT_DIR/narrow, with the rates of the recipe's section narrow)."
        },
    )

    NOT_IN_CONFIG = (
        "model_name_or_path",
        "config_name",
        "tokenizer_name",
        "separate_instances",
        "narrow_first",
    )

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
            "help": "Batches whose groups are sorted by length together, which saves padding; 0: none are sorted."
        },
    )
    similar_neighbours: bool = field(
        default=False, metadata={"help": "Rows of similar length form a group, instead of any rows."}
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
        metadata={"help": f"What decides which units go, one of: {', '.join(CRITERIA)} (docs/ablations.md)."},
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
            "help": "Cut every layer alike, so that so many copies fit side by side (--separate_instances): at the "
            "start of a finetuning, or in pruning instead of a sparsity."
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
    lagrangian_warmup_ratio: float | None = field(
        default=None,
        metadata={"help": "Instead of epochs: share of each target's steps in which it rises."},
    )
    reg_learning_rate: float = field(
        default=0.01, metadata={"help": "Learning rate of gates and multipliers."}
    )
    multiplier_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the Lagrangian's multipliers: they must grow before the gates follow the target, "
            "so a short training needs a larger one. Default: --reg_learning_rate."
        },
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
            "help": "Memory for an unmultiplexed teacher's states, which later epochs use again (0: none). "
            "Nothing with --replace_tokens: no row comes again."
        },
    )
    teacher_states: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which those states are kept for other runs with the same teacher (rounded to bfloat16). "
            "Nothing with --replace_tokens."
        },
    )
    replace_tokens: float = field(
        default=0.0,
        metadata={
            "help": "Share of a row's words that others of the batch replace in training, for a teacher to speak of "
            "more texts than there are; it is asked in every step. Nothing without a teacher."
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


def precision(training: TrainingArguments) -> str:
    """The dtype in which a run computes, by name; its weights are float32."""
    return "bfloat16" if training.bf16 else "float16" if training.fp16 else "float32"


@dataclass(frozen=True)
class Arguments:
    """All flags of one run."""

    model: ModelArguments
    data: DataArguments
    pruning: PruningArguments
    training: TrainingArguments
    recipe: dict[str, Any] = field(default_factory=dict)  # the defaults that the recipe gave
