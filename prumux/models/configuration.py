"""`PrumuxConfig`: the encoder's shape, how inputs are multiplexed, and what pruning has kept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from prumux.models.demultiplexers import DEMUXING_ALIASES
from prumux.models.multiplexers import MUXING_ALIASES


@strict
class PrumuxConfig(PreTrainedConfig):
    """Configuration of a multiplexed, possibly pruned, BERT-like encoder.

    Encoder: the fields of ``BertConfig``; ``hidden_size`` is the width of the residual stream as it is now (smaller
    than ``dense_hidden_size`` after hidden dimensions were removed), ``num_attention_heads`` and ``intermediate_size``
    are those of an unpruned layer.

    Multiplexing (paper section 2.2):
        num_instances: inputs mixed into one sequence; 1 is the plain encoder.
        muxing_variant, demuxing_variant: names from ``MULTIPLEXERS`` and ``DEMULTIPLEXERS``, or an alias of one.
        num_hidden_demux_layers: dense layers of the ``index_pos`` demultiplexer.
        gaussian_hadamard_norm: norm of each multiplexing vector. binary_hadamard_epsilon: overlap of the 0/1 chunks.
        learn_muxing: train the multiplexing vectors instead of keeping them fixed.
        retrieval_percentage: share of the real positions used by the retrieval loss.
        retrieval_loss_coeff, task_loss_coeff: weights of the two losses.

    Compatibility with the authors' checkpoints (METHOD in docs/method.md):
        attend_padding: the encoder attends padding positions, as in the authors' code (a contextual multiplexer never
            does, as in theirs); otherwise the positions at which no
            instance of the group has a token are masked.
        embed_twice: the mixture passes the embedding layer (position, type, LayerNorm) a second time.
        multiplex_single: a model of one instance has multiplexer and demultiplexer too, and no pooler.
        first_token_id: the token that stands first whatever a row holds; it overwrites the row's own first token, or,
            with ``index`` demultiplexing, is inserted between prefix and row.
        use_token_types: ``False`` reads every token as type 0.
        separate_retrieval: vocabulary scores are read through a demultiplexing chain with LayerNorms of their own.
        position_offset: index of the first position embedding (RoBERTa: ``pad_token_id + 1``, and padding tokens have
            the position ``pad_token_id``).
        pooler_act: activation between the two layers of the head of a model without multiplexing (BERT and RoBERTa:
            tanh, ELECTRA: gelu).
        classifier_transform: a dense layer and the activation between demultiplexer and classifier (DataMUX's RoBERTa
            with ``index`` demultiplexing).

    Kept structure, ``None`` for a dense model:
        head_dim: width of one head. dense_hidden_size: hidden size before pruning. kept_hidden: which of its dimensions
            are left. kept_heads, kept_intermediate: how many units each layer has left (0: the block is gone).
    """

    model_type = "prumux"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | int | None = None
    tie_word_embeddings: bool = True

    num_instances: int = 1
    muxing_variant: str = "gaussian_hadamard"
    demuxing_variant: str = "index_pos"
    num_hidden_demux_layers: int = 3
    gaussian_hadamard_norm: float | int = 1.0
    binary_hadamard_epsilon: float | int = 0.3
    learn_muxing: bool = False
    retrieval_percentage: float | int = 1.0
    retrieval_loss_coeff: float | int = 0.0
    task_loss_coeff: float | int = 1.0

    attend_padding: bool = False
    embed_twice: bool = True
    multiplex_single: bool = False
    first_token_id: int | None = None
    use_token_types: bool = True
    separate_retrieval: bool = False
    position_offset: int = 0
    classifier_transform: bool = False
    pooler_act: str = "tanh"

    if TYPE_CHECKING:  # None only asks __post_init__ to fill it in
        head_dim: int = 0
        dense_hidden_size: int = 0
        id2label: dict[int, str] = {}
        label2id: dict[str, int] = {}
    else:
        head_dim: int | None = None
        dense_hidden_size: int | None = None
    kept_hidden: list[int] | None = None
    kept_heads: list[int] | None = None
    kept_intermediate: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.muxing_variant = MUXING_ALIASES.get(self.muxing_variant, self.muxing_variant)
        self.demuxing_variant = DEMUXING_ALIASES.get(self.demuxing_variant, self.demuxing_variant)
        if self.dense_hidden_size is None:
            self.dense_hidden_size = self.hidden_size
        if self.num_hidden_demux_layers < 2:
            raise ValueError(f"num_hidden_demux_layers is {self.num_hidden_demux_layers}, expected 2 or more")
        if self.num_instances < 1:
            raise ValueError(f"num_instances is {self.num_instances}, expected 1 (plain encoder) or more")
        if not self.binary_hadamard_epsilon >= 0:
            raise ValueError(f"binary_hadamard_epsilon is {self.binary_hadamard_epsilon}, expected 0 or more")
        if not self.gaussian_hadamard_norm > 0:
            raise ValueError(f"gaussian_hadamard_norm is {self.gaussian_hadamard_norm}, expected more than 0")
        for kept, size in (
            ("kept_heads", "num_hidden_layers"),
            ("kept_intermediate", "num_hidden_layers"),
            ("kept_hidden", "hidden_size"),
        ):
            left, expected = getattr(self, kept), getattr(self, size)
            if left is not None and len(left) != expected:
                raise ValueError(
                    f"{size} is {expected}, but the pruned structure ({kept}) has {len(left)}: the shape of a pruned "
                    "model can't be changed"
                )
        if self.head_dim is None:
            if self.dense_hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.dense_hidden_size} is not a multiple of num_attention_heads "
                    f"{self.num_attention_heads}: change one of them"
                )
            self.head_dim = self.dense_hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Hugging Face's, but fields given as keywords are fields like any other: checked, aliases resolved, and of an
        unpruned shape the derived sizes follow."""
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        if given and config_dict.get("kept_heads") is None:
            derived = [name for name in ("dense_hidden_size", "head_dim") if name not in given]
            if not given.keys().isdisjoint({"hidden_size", "num_attention_heads"}):
                config_dict = {name: value for name, value in config_dict.items() if name not in derived}
        return super().from_dict(config_dict | given, **kwargs)

    @property
    def is_multiplexed(self) -> bool:
        return self.num_instances > 1 or self.multiplex_single

    @property
    def is_pruned(self) -> bool:
        return self.kept_heads is not None

    @property
    def heads_per_layer(self) -> list[int]:
        """Number of heads of each layer, dense or pruned."""
        return list(self.kept_heads or [self.num_attention_heads] * self.num_hidden_layers)

    @property
    def intermediate_per_layer(self) -> list[int]:
        """Number of FFN dimensions of each layer, dense or pruned."""
        return list(self.kept_intermediate or [self.intermediate_size] * self.num_hidden_layers)
