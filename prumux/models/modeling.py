"""The models: groups of N rows -> multiplexed embeddings -> encoder -> demultiplexed positions -> logits and losses."""

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
    RETRIEVAL_DEMULTIPLEXERS,
    Demultiplexer,
    IndexPos,
    IndexPosChain,
)
from prumux.models.encoder import Embeddings, Encoder, EncoderLayer, read
from prumux.models.multiplexers import MULTIPLEXERS, GaussianAttention, Multiplexer
from prumux.pruning.masks import Masks, StreamMask, resolve

IGNORE_INDEX = -100  # label of filled rows and unmasked tokens, PyTorch's and Hugging Face's convention

TIED_DECODER = {"lm_head.decoder.weight": "bert.embeddings.word_embeddings.weight"}
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
        elif isinstance(module, LMHead):
            init.zeros_(module.bias)


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


class LMHead(nn.Module):
    """Vocabulary scores; the decoder's matrix is tied to the word embeddings while their widths agree.

    ``transform`` (BERT's dense + activation + LayerNorm) belongs to masked language modelling; token retrieval reads
    the demultiplexed vector directly. With ``config.separate_retrieval`` both read through ``demultiplexer`` instead of
    the model's, and there is no transform.
    """

    def __init__(self, config: PrumuxConfig) -> None:
        super().__init__()
        self.demultiplexer: Demultiplexer | None = None
        self.transform: nn.Sequential | None = None
        if config.separate_retrieval:
            self.demultiplexer = build_demultiplexer(config, RETRIEVAL_DEMULTIPLEXERS)
        else:
            self.transform = nn.Sequential(
                nn.Linear(
                    config.dense_hidden_size if config.is_multiplexed else config.hidden_size,
                    config.dense_hidden_size,
                ),
                ACT2FN[config.hidden_act],
                nn.LayerNorm(config.dense_hidden_size, eps=config.layer_norm_eps),
            )
        self.decoder = nn.Linear(config.dense_hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def scores(self, vectors: Tensor) -> Tensor:
        """vectors [..., D] -> [..., V]."""
        return self.decoder(vectors) + self.bias

    def forward(self, vectors: Tensor) -> Tensor:
        return self.scores(vectors if self.transform is None else self.transform(vectors))


def _tied_weights(config: PrumuxConfig) -> dict[str, str]:
    """Names of the vocabulary head's tensors that are the same as others of the model."""
    tied = dict(TIED_DECODER)
    if config.separate_retrieval and config.demuxing_variant == "index_pos":
        pairs = [("keys", "keys"), ("first.weight", "first.weight"), ("first.bias", "first.bias")]
        if config.num_hidden_demux_layers > 2:
            pairs += [("second.weight", "inner.0.weight"), ("second.bias", "inner.0.bias")]
        tied |= {f"lm_head.demultiplexer.{mine}": f"bert.demultiplexer.{its}" for mine, its in pairs}
    return tied


def retrieval_loss(
    model: PrumuxModel, head: LMHead, state: EncoderState, input_ids: Tensor, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Token retrieval (paper section 3.1, phase 1): name the token that a drawn instance holds at a position.

    At every position one instance is drawn; the loss counts where that instance has a real token, on a share
    ``retrieval_percentage`` of those positions. The vocabulary is scored at these positions only.

    Returns:
        The mean cross entropy, and per slot the tokens named correctly and those asked for, ``[N, 2]``.
    """
    groups, instances = input_ids.shape[0] // model.config.num_instances, model.config.num_instances
    tokens = input_ids.view(groups, instances, -1)  # (B, N, L)
    # what is asked for: every token of a row, [CLS] and [SEP] too, as in the authors' code; no padding, no filled rows
    real = torch.ones_like(tokens) if attention_mask is None else attention_mask.view_as(tokens)
    drawn = torch.randint(instances, (groups, 1, tokens.shape[-1]), device=tokens.device)
    target = tokens.gather(1, drawn).squeeze(1)  # (B, L)
    counts = real.gather(1, drawn).squeeze(1).bool()
    if model.config.retrieval_percentage < 1:
        counts &= torch.rand(counts.shape, device=counts.device) < model.config.retrieval_percentage
    group, position = counts.nonzero(as_tuple=True)  # (X,), (X,)
    hidden = state.hidden_states[-1][group, position + state.prefix].unsqueeze(1)  # (X, 1, D)
    separated = model.demultiplex(hidden, state, group, head.demultiplexer).squeeze(2)  # (X, N, D)
    slot = drawn.squeeze(1)[group, position]
    scores = head.scores(separated[torch.arange(len(group), device=group.device), slot])  # (X, V)
    target = target[group, position]
    hits = torch.stack(
        [(scores.detach().argmax(-1) == target).float(), torch.ones_like(target).float()], dim=1
    )
    slots = hits.new_zeros(instances, 2).index_add_(0, slot, hits)
    if not len(target):
        return scores.sum(), slots  # nothing drawn: 0, not the NaN of an empty mean
    return nn.functional.cross_entropy(scores, target), slots


def _share(slots: Tensor) -> Tensor:
    """Share of the tokens named correctly, of ``[N, 2]``."""
    return slots[:, 0].sum() / slots[:, 1].sum().clamp_min(1)


class PrumuxClassifier(PrumuxPreTrainedModel):
    """What the classifiers of sentences and of tokens share: dropout, a linear layer, and the losses.

    Dense models that are trained with the retrieval loss have a vocabulary head, too.
    """

    def __init__(self, config: PrumuxConfig, *, add_pooling_layer: bool) -> None:
        super().__init__(config)
        self.bert = PrumuxModel(config, add_pooling_layer=add_pooling_layer)
        dropout = (
            config.classifier_dropout if config.classifier_dropout is not None else config.hidden_dropout_prob
        )
        self.dropout = nn.Dropout(dropout)
        self.transform = None
        if config.classifier_transform:
            width = config.dense_hidden_size
            self.transform = nn.Sequential(nn.Linear(width, width), ACT2FN[config.hidden_act])
        self.classifier = nn.Linear(config.dense_hidden_size, len(config.id2label))
        self.lm_head = None
        if config.is_multiplexed and config.retrieval_loss_coeff > 0 and not config.is_pruned:
            self.lm_head = LMHead(config)
            self._tied_weights_keys = _tied_weights(config)
        self.post_init()

    def _classify(self, features: Tensor) -> Tensor:
        """Demultiplexed features [..., D] -> logits [..., C]."""
        if self.transform is not None:
            features = self.transform(features)
        return self.classifier(self.dropout(features))

    def _finish(
        self,
        logits: Tensor,
        state: EncoderState,
        labels: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        output_hidden_states: bool | None,
    ) -> PrumuxOutput:
        """The output for ``logits`` [N*B, C] or [N*B, L, C] with the losses for ``labels`` of that shape less C."""
        output = PrumuxOutput(logits=logits, attended=state.attended[:, state.first :])
        if output_hidden_states:
            output.hidden_states = state.from_first()
        if labels is not None:
            output.task_loss = classification_loss(logits, labels)
            output.loss = self.config.task_loss_coeff * output.task_loss
            if self.lm_head is not None:
                output.retrieval_loss, output.retrieval_slots = retrieval_loss(
                    self.bert, self.lm_head, state, input_ids, attention_mask
                )
                output.retrieval_accuracy = _share(output.retrieval_slots)
                output.loss = output.loss + self.config.retrieval_loss_coeff * output.retrieval_loss
        return output


class PrumuxForSequenceClassification(PrumuxClassifier):
    """Classification (or regression, ``num_labels=1``) of N inputs per mixture, from their first tokens."""

    def __init__(self, config: PrumuxConfig) -> None:
        super().__init__(config, add_pooling_layer=not config.is_multiplexed)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Masks | None = None,
        output_hidden_states: bool | None = None,
        output_separated: bool = False,
    ) -> PrumuxOutput:
        """Classify ``input_ids`` [N*B, L], N consecutive rows forming a group.

        Args:
            attention_mask: ``[N*B, L]``, 1 at tokens; ``None`` means every position is one.
            token_type_ids: ``[N*B, L]``; ``None`` means type 0.
            labels: ``[N*B]``; rows labelled ``IGNORE_INDEX`` don't count.
            masks: pruning masks, ``None`` for dense.
            output_separated: give every token's demultiplexed vector, which classifying needs of the first only.

        Returns:
            logits ``[N*B, num_labels]`` in the order of the rows, and the losses when ``labels`` are given.
        """
        state = self.bert.encode(input_ids, attention_mask, token_type_ids, masks)
        first = state.hidden_states[-1][:, state.first : state.first + 1]  # (B, 1, D)
        pooled = self.bert.demultiplex(first, state).flatten(0, 2)  # (N*B, D)
        if self.bert.pooler is not None:
            pooled = self.bert.pooler(pooled)
        logits = self._classify(pooled)
        output = self._finish(logits, state, labels, input_ids, attention_mask, output_hidden_states)
        if output_separated:
            tokens = state.hidden_states[-1][:, state.prefix :]
            output.separated = self.bert.demultiplex(tokens, state).flatten(0, 1)
        return output


class PrumuxForTokenClassification(PrumuxClassifier):
    """Classification of every token of N inputs per mixture."""

    def __init__(self, config: PrumuxConfig) -> None:
        super().__init__(config, add_pooling_layer=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Masks | None = None,
        output_hidden_states: bool | None = None,
        output_separated: bool = False,
    ) -> PrumuxOutput:
        """Classify the tokens of ``input_ids`` [N*B, L], N consecutive rows forming a group.

        Args:
            labels: ``[N*B, L]``; tokens labelled ``IGNORE_INDEX`` don't count.
            attention_mask, token_type_ids, masks, output_separated: see :class:`PrumuxForSequenceClassification`.

        Returns:
            logits ``[N*B, L, num_labels]``, and the losses when ``labels`` are given.
        """
        state = self.bert.encode(input_ids, attention_mask, token_type_ids, masks)
        tokens = state.hidden_states[-1][:, state.prefix :]  # (B, L, D)
        separated = self.bert.demultiplex(tokens, state).flatten(0, 1)  # (N*B, L, D)
        output = self._finish(
            self._classify(separated), state, labels, input_ids, attention_mask, output_hidden_states
        )
        output.separated = separated if output_separated else None
        return output


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy (integer labels) or mean squared error (float labels); ``IGNORE_INDEX`` does not count.

    logits ``[..., C]``, labels ``[...]``.
    """
    if labels.is_floating_point() or logits.shape[-1] == 1:
        counted = labels != IGNORE_INDEX
        labels = labels.to(logits.dtype)
        return nn.functional.mse_loss(logits.squeeze(-1)[counted], labels[counted])
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX)


class PrumuxForMaskedLM(PrumuxPreTrainedModel):
    """Token retrieval warm-up and masked language modelling on N inputs per mixture."""

    def __init__(self, config: PrumuxConfig) -> None:
        super().__init__(config)
        self.bert = PrumuxModel(config)
        self.lm_head = LMHead(config)
        self._tied_weights_keys = _tied_weights(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head.decoder

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Masks | None = None,
        output_hidden_states: bool | None = None,
    ) -> PrumuxOutput:
        """Score the vocabulary for ``input_ids`` [N*B, L].

        With ``labels`` [N*B, L] (``IGNORE_INDEX`` where nothing is masked) only the labelled positions are scored:
        ``logits`` is then ``[number of labelled positions, V]`` in row-major order; without, ``[N*B, L, V]``.
        The masked-token term is skipped when ``config.task_loss_coeff`` is 0, the retrieval term (which needs unmasked
        inputs or counts [MASK] as a token) when ``config.retrieval_loss_coeff`` is 0 or N is 1.
        """
        config = self.config
        state = self.bert.encode(input_ids, attention_mask, token_type_ids, masks)
        output = PrumuxOutput(attended=state.attended[:, state.first :])
        if output_hidden_states:
            output.hidden_states = state.from_first()
        terms: list[Tensor] = []
        if labels is None or config.task_loss_coeff > 0:
            output.logits, targets = self._masked_token_scores(state, labels)
            if targets is not None:
                # without a masked token 0, not the NaN of an empty mean
                output.task_loss = (
                    nn.functional.cross_entropy(output.logits, targets)
                    if len(targets)
                    else output.logits.sum()
                )
                terms.append(config.task_loss_coeff * output.task_loss)
        if labels is not None and config.is_multiplexed and config.retrieval_loss_coeff > 0:
            output.retrieval_loss, output.retrieval_slots = retrieval_loss(
                self.bert, self.lm_head, state, input_ids, attention_mask
            )
            output.retrieval_accuracy = _share(output.retrieval_slots)
            terms.append(config.retrieval_loss_coeff * output.retrieval_loss)
        output.loss = torch.stack(terms).sum() if terms else None
        return output

    def _masked_token_scores(
        self, state: EncoderState, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        last, own = state.hidden_states[-1], self.lm_head.demultiplexer
        if labels is None:
            separated = self.bert.demultiplex(last[:, state.prefix :], state, demultiplexer=own)
            return self.lm_head(separated.flatten(0, 1)), None
        row, position = (labels != IGNORE_INDEX).nonzero(as_tuple=True)  # (X,), (X,)
        group = row.div(self.config.num_instances, rounding_mode="floor")
        hidden = last[group, position + state.prefix].unsqueeze(1)  # (X, 1, D)
        separated = self.bert.demultiplex(hidden, state, group, own).squeeze(2)  # (X, N, D)
        chosen = separated[torch.arange(len(row), device=row.device), row % self.config.num_instances]
        return self.lm_head(chosen), labels[row, position]
