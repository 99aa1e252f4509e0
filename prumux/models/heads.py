"""The models with a head: demultiplexed positions -> logits and losses, for sentences, tokens and the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from prumux.models.configuration import PrumuxConfig
from prumux.models.demultiplexers import RETRIEVAL_DEMULTIPLEXERS, Demultiplexer
from prumux.models.modeling import (
    EncoderState,
    PrumuxModel,
    PrumuxOutput,
    PrumuxPreTrainedModel,
    build_demultiplexer,
)
from prumux.pruning.masks import Masks

IGNORE_INDEX = -100  # label of filled rows and unmasked tokens, PyTorch's and Hugging Face's convention

TIED_DECODER = {"lm_head.decoder.weight": "bert.embeddings.word_embeddings.weight"}


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


class PrumuxHeadModel(PrumuxPreTrainedModel):
    """A model with a head."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LMHead):
            init.zeros_(module.bias)


class PrumuxClassifier(PrumuxHeadModel):
    """What the classifiers of sentences and of tokens share: dropout, a linear layer, and the losses.

    Dense models that are trained with the retrieval loss have a vocabulary head, too.

    Attributes:
        stream_reader: name of the weight that reads the residual stream itself, ``None`` where a demultiplexer or
            pooler stands between.
    """

    def __init__(self, config: PrumuxConfig, *, add_pooling_layer: bool) -> None:
        super().__init__(config)
        self.bert = PrumuxModel(config, add_pooling_layer=add_pooling_layer)
        dropout = (
            config.classifier_dropout if config.classifier_dropout is not None else config.hidden_dropout_prob
        )
        self.dropout = nn.Dropout(dropout)
        self.transform = self.stream_reader = None
        width = config.dense_hidden_size
        if not config.is_multiplexed and not add_pooling_layer:
            width = config.hidden_size
            self.stream_reader = "transform.0.weight" if config.classifier_transform else "classifier.weight"
        if config.classifier_transform:
            self.transform = nn.Sequential(
                nn.Linear(width, config.dense_hidden_size), ACT2FN[config.hidden_act]
            )
            width = config.dense_hidden_size
        self.classifier = nn.Linear(width, len(config.id2label))
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

    def _read(self, state: EncoderState, separate: bool) -> tuple[Tensor, Tensor | None]:
        """Logits, and every token's demultiplexed vector ``[N*B, L, D]`` (``None`` where it isn't asked for)."""
        raise NotImplementedError

    def _separate(self, state: EncoderState) -> Tensor:
        """Every token's demultiplexed vector [N*B, L, D]."""
        return self.bert.demultiplex(state.hidden_states[-1][:, state.prefix :], state).flatten(0, 1)

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
            labels: ``[N*B]``, of tokens ``[N*B, L]``; what is labelled ``IGNORE_INDEX`` doesn't count.
            masks: pruning masks, ``None`` for dense.
            output_separated: give every token's demultiplexed vector, of which sentences need the first only.

        Returns:
            logits ``[N*B, num_labels]``, of tokens ``[N*B, L, num_labels]``, in the order of the rows, and the losses
            when ``labels`` are given.
        """
        state = self.bert.encode(input_ids, attention_mask, token_type_ids, masks)
        logits, separated = self._read(state, output_separated)
        output = PrumuxOutput(logits=logits, attended=state.attended[:, state.first :], separated=separated)
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

    def _read(self, state: EncoderState, separate: bool) -> tuple[Tensor, Tensor | None]:
        first = state.hidden_states[-1][:, state.first : state.first + 1]  # (B, 1, D)
        pooled = self.bert.demultiplex(first, state).flatten(0, 2)  # (N*B, D)
        if self.bert.pooler is not None:
            pooled = self.bert.pooler(pooled)
        return self._classify(pooled), self._separate(state) if separate else None


class PrumuxForTokenClassification(PrumuxClassifier):
    """Classification of every token of N inputs per mixture."""

    def __init__(self, config: PrumuxConfig) -> None:
        super().__init__(config, add_pooling_layer=False)

    def _read(self, state: EncoderState, separate: bool) -> tuple[Tensor, Tensor | None]:
        separated = self._separate(state)
        return self._classify(separated), separated if separate else None


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy (integer labels) or mean squared error (float labels) of the labels that are ``counted``.

    logits ``[..., C]``, labels ``[...]``.
    """
    if labels.is_floating_point() or logits.shape[-1] == 1:
        real = counted(labels)
        return nn.functional.mse_loss(logits.squeeze(-1)[real], labels[real].to(logits.dtype))
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX)


def counted(labels: Tensor) -> Tensor:
    """bool, of the same shape: not a filled row or a token without a label (``IGNORE_INDEX``, NaN among scores)."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORE_INDEX


class PrumuxForMaskedLM(PrumuxHeadModel):
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
