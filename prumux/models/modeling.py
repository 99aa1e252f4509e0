"""`PrumuxModel`: groups of N rows -> multiplexed embeddings -> encoder -> demultiplexed positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ModelOutput

from prumux.models.configuration import PrumuxConfig
from prumux.models.demultiplexers import (
    DEMULTIPLEXERS,
    Demultiplexer,
    IndexPos,
    IndexPosChain,
)
from prumux.models.encoder import Embeddings, Encoder, EncoderLayer, read
from prumux.models.multiplexers import MULTIPLEXERS, GaussianAttention, Multiplexer
from prumux.pruning.masks import Masks, StreamMask, resolve

# parts of BERT, RoBERTa and ELECTRA checkpoints that a model of ours may have no use for
UNUSED_KEYS = ["pooler", r"cls\.", "position_ids", r"lm_head\.", "_predictions", "generator_lm_head"]


@dataclass
class PrumuxOutput(ModelOutput):
    """Output of a model with a head.

    Attributes:
        loss: weighted sum of the terms below, scalar.
        logits: ``[N*B, num_labels]``; for ``PrumuxForMaskedLM`` see there.
        hidden_states: input of the encoder and every layer's output at the row positions, each ``[B, L, D]``.
        task_loss, retrieval_loss: the unweighted terms. retrieval_accuracy: share of tokens retrieved.
        retrieval_slots: tokens retrieved and tokens asked for in each slot of the groups, ``[N, 2]``.
        attended: bool ``[B, L]``, the positions that hold a token of at least one instance.
        separated: the demultiplexed vector of every token, ``[N*B, L, dense hidden size]``.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    task_loss: Tensor | None = None
    retrieval_loss: Tensor | None = None
    retrieval_accuracy: Tensor | None = None
    retrieval_slots: Tensor | None = None
    attended: Tensor | None = None
    separated: Tensor | None = None


def _choose(table: dict[str, type], name: str, field: str) -> type:
    if name not in table:
        raise ValueError(f"{field} is '{name}', choose one of: {', '.join(sorted(table))}")
    return table[name]


def build_multiplexer(config: PrumuxConfig) -> Multiplexer:
    """The multiplexer that ``config.muxing_variant`` names, at the width of the residual stream."""
    return _choose(MULTIPLEXERS, config.muxing_variant, "muxing_variant")(
        num_instances=config.num_instances,
        hidden_size=config.hidden_size,
        norm=config.gaussian_hadamard_norm,
        epsilon=config.binary_hadamard_epsilon,
        learned=config.learn_muxing,
        layer=partial(build_layer, config, config.num_attention_heads, config.intermediate_size),
    )


def build_demultiplexer(
    config: PrumuxConfig, table: dict[str, type[Demultiplexer]] = DEMULTIPLEXERS
) -> Demultiplexer:
    """The demultiplexer that ``config.demuxing_variant`` names; reads the stream, returns the unpruned width."""
    return _choose(table, config.demuxing_variant, "demuxing_variant")(
        num_instances=config.num_instances,
        input_size=config.hidden_size,
        output_size=config.dense_hidden_size,
        num_layers=config.num_hidden_demux_layers,
        activation=config.hidden_act,
        dropout=config.hidden_dropout_prob,
        layer_norm_eps=config.layer_norm_eps,
    )


def build_layer(config: PrumuxConfig, num_heads: int, intermediate_size: int) -> EncoderLayer:
    """A Transformer layer at the width of the residual stream."""
    return EncoderLayer(
        hidden_size=config.hidden_size,
        num_heads=num_heads,
        head_dim=config.head_dim,
        intermediate_size=intermediate_size,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
    )


def build_encoder(config: PrumuxConfig) -> Encoder:
    """The encoder with the number of heads and FFN dimensions that each layer has left."""
    sizes = zip(config.heads_per_layer, config.intermediate_per_layer, strict=True)
    return Encoder([build_layer(config, heads, intermediate) for heads, intermediate in sizes])


class Pooler(nn.Module):
    """The first layer of the head without multiplexing: ``act(W h)`` of the first position."""

    def __init__(self, *, input_size: int, output_size: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, output_size)
        self.activation = ACT2FN[activation]

    def forward(self, first: Tensor) -> Tensor:
        return self.activation(self.dense(first))


class PrumuxPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the models."""

    config: PrumuxConfig
    config_class = PrumuxConfig
    base_model_prefix = "bert"
    _keys_to_ignore_on_load_unexpected = UNUSED_KEYS
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, Multiplexer):
            init.copy_(module.vectors, module.initial_vectors())
            if isinstance(module, GaussianAttention):
                init.ones_(module.gain)
        elif isinstance(module, IndexPos | IndexPosChain):
            init.normal_(module.keys, mean=0.0, std=1.0)
        elif isinstance(module, PrumuxModel) and module.prefix_embeddings is not None:
            init.normal_(module.prefix_embeddings, mean=0.0, std=std)


class PrumuxModel(PrumuxPreTrainedModel):
    """Embedding, multiplexer, encoder and demultiplexer; with ``num_instances=1`` plain BERT without a head."""

    def __init__(self, config: PrumuxConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            pad_token_id=config.pad_token_id,
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            position_offset=config.position_offset,
        )
        self.encoder = build_encoder(config)
        self.pooler = (
            Pooler(
                input_size=config.hidden_size,
                output_size=config.dense_hidden_size,
                activation=config.pooler_act,
            )
            if add_pooling_layer
            else None
        )
        self.multiplexer = build_multiplexer(config) if config.is_multiplexed else None
        self.demultiplexer = build_demultiplexer(config) if config.is_multiplexed else None
        markers = self.demultiplexer.prefix_length if self.demultiplexer is not None else 0
        # One marker per instance and, last, the filler of the other prefix positions.
        self.prefix_embeddings = (
            nn.Parameter(torch.empty(markers + 1, config.hidden_size)) if markers else None
        )
        self.first_position = markers  # where sentences are read
        inserted = bool(markers) and config.first_token_id is not None
        self.prefix_length = markers + inserted  # positions before the rows' own tokens
        if markers and self.max_length < 1:
            raise ValueError(
                f"the {self.prefix_length} markers of {config.demuxing_variant} demultiplexing leave no room in "
                f"max_position_embeddings {config.max_position_embeddings}: use a smaller num_instances"
            )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    # the base class accepts any module, and passes embeddings
    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        self.embeddings.word_embeddings = value

    @property
    def max_length(self) -> int:
        """Longest sequence (tokens) that the position embeddings allow."""
        config = self.config
        return config.max_position_embeddings - config.position_offset - self.prefix_length

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        masks: Masks | None = None,
    ) -> EncoderState:
        """Embed, multiplex and encode ``input_ids`` [N*B, L].

        Raises:
            ValueError: rows that form no groups of N, sequences longer than the positions.
        """
        config = self.config
        rows, length = input_ids.shape
        instances = config.num_instances
        if rows % instances:
            raise ValueError(f"batch of {rows} rows can't form groups of {instances}: use GroupingCollator")
        if length > self.max_length:
            raise ValueError(
                f"sequences of {length} tokens and a prefix of {self.prefix_length} exceed "
                f"max_position_embeddings {config.max_position_embeddings}: truncate the inputs"
            )
        if not config.use_token_types:
            token_type_ids = None
        layer_masks, stream = resolve(
            masks, config.heads_per_layer, config.intermediate_per_layer, config.hidden_size
        )
        if attention_mask is None:
            attended = torch.ones(input_ids.shape, dtype=torch.bool, device=input_ids.device)
        else:
            attended = attention_mask.bool()
        attended = attended.view(-1, instances, length)
        x, attended = self._embed(input_ids, token_type_ids, attended, stream)
        use_mask = attention_mask is not None and not config.attend_padding
        hidden_states = self.encoder(x, attended if use_mask else None, layer_masks, stream)
        return EncoderState(
            hidden_states=hidden_states,
            attended=attended,
            stream=stream,
            first=self.first_position,
            prefix=self.prefix_length,
        )

    def _embed(
        self, input_ids: Tensor, token_type_ids: Tensor | None, attended: Tensor, stream: StreamMask | None
    ) -> tuple[Tensor, Tensor]:
        """Token ids [N*B, L] -> encoder input [B, prefix + L, D] and its attended positions, those of any row.

        ``attended``: bool ``[B, N, L]``, the tokens of each row.
        """
        first_token = self.config.first_token_id
        if first_token is not None and self.prefix_embeddings is None:
            input_ids = input_ids.clone()
            input_ids[:, 0] = first_token
        words = self.embeddings.word_embeddings(input_ids)  # (N*B, L, D)
        positions = self._positions(input_ids) if self.config.position_offset else None
        if self.multiplexer is None:
            return self.embeddings(words, token_type_ids, stream, positions), attended.any(1)
        if self.prefix_embeddings is not None:
            words = torch.cat([self._prefix(words.shape[0]), words], dim=1)
            attended = nn.functional.pad(attended, (self.prefix_length, 0), value=True)
            if token_type_ids is not None:
                token_type_ids = nn.functional.pad(token_type_ids, (self.prefix_length, 0))
        embedded = self.embeddings(words, token_type_ids, stream, positions)
        grouped = embedded.unflatten(0, (-1, self.config.num_instances))  # (B, N, L, D)
        mixture = read(self.multiplexer(grouped, attended, stream), stream)  # (B, L, D)
        if self.config.embed_twice:
            mixture = self.embeddings.finish(mixture, None, stream)
        return mixture, attended.any(1)

    def _positions(self, input_ids: Tensor) -> Tensor:
        """RoBERTa's positions [N*B, prefix + L]: real tokens are counted, padding stands before the offset."""
        real = nn.functional.pad(
            (input_ids != (self.config.pad_token_id or 0)).to(torch.long), (self.prefix_length, 0), value=1
        )
        return real.cumsum(1) * real + self.config.position_offset - 1

    def _prefix(self, rows: int) -> Tensor:
        """Word vectors [rows, prefix, D]: the instance's marker at its place, else the filler; then the first token."""
        assert self.prefix_embeddings is not None
        instances = self.first_position
        own = torch.arange(instances, device=self.prefix_embeddings.device)
        index = torch.where(own[:, None] == own, own, instances)  # (N, N)
        prefix = self.prefix_embeddings[index].repeat(rows // instances, 1, 1)
        if self.prefix_length == instances:
            return prefix
        first = self.embeddings.word_embeddings.weight[self.config.first_token_id]
        return torch.cat([prefix, first.expand(rows, 1, -1)], dim=1)

    def demultiplex(
        self,
        hidden: Tensor,
        state: EncoderState,
        groups: Tensor | None = None,
        demultiplexer: Demultiplexer | None = None,
    ) -> Tensor:
        """Separate the instances at chosen positions.

        Args:
            hidden: ``[X, P, D]``, positions of the last layer.
            state: what ``encode`` returned.
            groups: ``[X]``, which group each row of ``hidden`` belongs to; ``None`` when ``X`` is the groups in order.
            demultiplexer: another than the model's own.

        Returns:
            ``[X, N, P, dense hidden size]`` (``[X, 1, P, D]`` without multiplexing).
        """
        scale = state.stream.scale if state.stream is not None else None
        demultiplexer = demultiplexer or self.demultiplexer
        if demultiplexer is None:
            return read(hidden, state.stream).unsqueeze(1)
        prefix = None
        if demultiplexer.prefix_length:
            prefix = state.hidden_states[-1][:, : demultiplexer.prefix_length]  # (B, N, D)
            prefix = prefix if groups is None else prefix[groups]
        return demultiplexer(hidden, prefix, scale)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        masks: Masks | None = None,
    ) -> PrumuxOutput:
        """``hidden_states`` of the mixture; see :class:`PrumuxOutput`."""
        state = self.encode(input_ids, attention_mask, token_type_ids, masks)
        return PrumuxOutput(hidden_states=state.from_first(), attended=state.attended[:, state.first :])


@dataclass(frozen=True)
class EncoderState:
    """What the encoder leaves for the heads: hidden states [B, prefix + L, D], attended bool [B, prefix + L].

    ``first`` is the position where sentences are read, ``prefix`` that of the rows' own first token; they differ only
    when a first token was inserted.
    """

    hidden_states: list[Tensor]
    attended: Tensor
    stream: StreamMask | None
    first: int
    prefix: int

    def from_first(self) -> tuple[Tensor, ...]:
        """Every hidden state without the markers' positions, [B, L, D]."""
        return tuple(h[:, self.first :] for h in self.hidden_states)
