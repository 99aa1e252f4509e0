"""`FastForward`: the forward pass of a finished classifier for speed; the same weights and logits, fewer operations.

What differs from the model's own forward:

- multiplexing accumulates over the instances: ``[G, N, L, D]`` never exists, and the LayerNorm before it is folded into
  tables that are centred once and one coefficient vector per instance;
- the markers that ``index`` demultiplexing puts before a row are the same for every group: their mixture is a constant;
- after the last attention block only the positions that are read are computed ([CLS] for sentences).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from prumux.inference.quantized import quantize
from prumux.models.encoder import Attention, EncoderLayer
from prumux.models.heads import PrumuxClassifier, PrumuxForTokenClassification
from prumux.models.modeling import EncoderState


class FastForward(nn.Module):
    """The fast forward of a classifier, to be compiled; ``model`` is copied."""

    words: Tensor  # (V, D), rows of mean 0
    typed: Tensor  # (types, positions, D), token type + position, rows of mean 0
    second: Tensor  # (positions, D), what the second pass through the embedding layer adds
    scale: Tensor  # (N, D)
    shift: Tensor  # (D)
    matrices: Tensor | None  # (N, D, D), random_ortho's
    prefix: Tensor | None  # (1, P, D), the mixture of the markers

    def __init__(self, model: PrumuxClassifier, dtype: torch.dtype, int8: bool = False) -> None:
        """``int8``: the encoder's linear layers in int8, everything else in ``dtype``."""
        super().__init__()
        model = copy.deepcopy(model).cpu().float().eval()
        model.lm_head = None
        self.config = model.config
        self.all_tokens = isinstance(model, PrumuxForTokenClassification)
        bert = model.bert
        self.first, self.prefix_length = bert.first_position, bert.prefix_length
        self.max_length = bert.max_length
        attending = [i for i, layer in enumerate(bert.encoder.layer) if layer.attention is not None]
        self.last_attention = attending[-1] if attending else -1
        mixer = bert.multiplexer
        self.folds = mixer is None or mixer.linear() is not None
        if self.folds:
            self._fold_embeddings(model)
            for name in ("words", "typed", "prefix", "matrices"):  # the rest is small and stays in float32
                if (value := getattr(self, name)) is not None:
                    setattr(self, name, value.to(dtype))
            bert.embeddings.word_embeddings = bert.embeddings.position_embeddings = None  # type: ignore[assignment]
        reads = -1 if self.all_tokens else self.last_attention
        layers: Any = bert.encoder.layer
        self.layers = nn.ModuleList(FastLayer(layer, i == reads) for i, layer in enumerate(layers))
        bert.encoder.layer = None  # type: ignore[assignment]
        self.model = model.to(dtype)  # type: ignore[arg-type]
        self.layers.to(dtype)
        if int8:
            quantize(self.layers)
        self.dtype = dtype

    @torch.no_grad()
    def _fold_embeddings(self, model: PrumuxClassifier) -> None:
        """Tables whose rows have mean 0, coefficients per instance, and what does not depend on the input."""
        config, bert = self.config, model.bert
        tables = bert.embeddings
        norm = tables.LayerNorm
        words, placed = tables.word_embeddings.weight, tables.position_embeddings.weight
        typed = tables.token_type_embeddings.weight[:, None] + placed  # (types, positions, D)
        self.register_buffer("words", words - words.mean(-1, keepdim=True))
        self.register_buffer("typed", typed - typed.mean(-1, keepdim=True))
        self.register_buffer("second", typed[0].clone())  # added to the mixture where it is embedded again
        self.eps = norm.eps
        mixer = bert.multiplexer
        instances = config.num_instances
        matrices: Tensor | None = None
        scale: Tensor
        shift: Tensor
        if mixer is None:
            scale, shift = norm.weight[None], norm.bias
        else:
            maps = mixer.linear()
            assert maps is not None
            if maps.dim() == 3:
                # sum_i R_i (w * x_i + b): the LayerNorm's weight goes into the matrices' columns
                scale, shift = torch.ones_like(norm.weight).expand(instances, -1), maps.sum(0) @ norm.bias
                matrices = maps * norm.weight
            else:
                scale, shift = norm.weight * maps, norm.bias * maps.sum(0)
        self.register_buffer("matrices", matrices)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())
        prefix = None
        if self.prefix_length:
            ids = torch.zeros(instances, 1, dtype=torch.long)
            attended = torch.ones(1, instances, 1, dtype=torch.bool)
            prefix = bert._embed(ids, None, attended, None)[0][:, : self.prefix_length].clone()
        self.register_buffer("prefix", prefix)

    def forward(
        self, input_ids: Tensor, attended: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits of whole groups.

        Args:
            input_ids: ``[G, N, L]``. token_type_ids: the same shape, or ``None`` for type 0.
            attended: bool ``[G, N, L]``, the tokens of each row; ``None`` for all.

        Returns:
            ``[G * N, C]`` or, for tokens, ``[G * N, L, C]``.
        """
        if self.folds:
            x = self._embed(input_ids, token_type_ids)  # (G, P + L, D)
        else:
            x = self._embed_plainly(input_ids, token_type_ids, attended)
        mask = None
        if attended is not None and not self.config.attend_padding:
            mask = nn.functional.pad(attended.any(1), (self.prefix_length, 0), value=True)[:, None, None]
        for i, layer in enumerate(self.layers):
            x = layer(self._read(x) if i == self.last_attention else x, x, mask)
        if self.last_attention < 0:
            x = self._read(x)
        state = EncoderState([x], torch.empty(0), None, self.first, self.prefix_length)
        first = self.prefix_length if self.all_tokens else self.first
        read = x[:, first:]
        features = self.model.bert.demultiplex(read, state)  # (G, N, positions, D)
        features = features.flatten(0, 1) if self.all_tokens else features.flatten(0, 2)
        if self.model.bert.pooler is not None:
            features = self.model.bert.pooler(features)
        return self.model._classify(features)

    def _embed_plainly(
        self, input_ids: Tensor, token_type_ids: Tensor | None, attended: Tensor | None
    ) -> Tensor:
        """The model's own way, for a mixture that is no sum of linear maps."""
        if attended is None:
            attended = torch.ones_like(input_ids, dtype=torch.bool)
        if token_type_ids is not None:
            token_type_ids = token_type_ids.flatten(0, 1) if self.config.use_token_types else None
        return self.model.bert._embed(input_ids.flatten(0, 1), token_type_ids, attended, None)[0]

    def _read(self, x: Tensor) -> Tensor:
        """The positions that are read of the encoder's output: markers and first token, or all of them."""
        return x if self.all_tokens else x[:, : self.first + 1]

    def _embed(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        config, length = self.config, input_ids.shape[-1]
        if config.first_token_id is not None and self.prefix is None:
            first = torch.full_like(input_ids[..., :1], config.first_token_id)
            input_ids = torch.cat([first, input_ids[..., 1:]], dim=-1)
        start = config.position_offset + self.prefix_length
        if not config.use_token_types:
            token_type_ids = None
        positions = self._positions(input_ids) if config.position_offset else None
        mixture = self.shift
        for i in range(config.num_instances):
            if positions is None and token_type_ids is None:
                placed = self.typed[0, start : start + length]
            else:
                types = torch.zeros_like(input_ids[:, i]) if token_type_ids is None else token_type_ids[:, i]
                where = torch.arange(start, start + length, device=types.device)
                placed = self.typed[types, where if positions is None else positions[:, i]]
            x = self.words[input_ids[:, i]].float() + placed.float()  # mean 0
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
            if self.matrices is None:
                mixture = mixture + x * self.scale[i]
            else:
                mixture = mixture + nn.functional.linear(x.to(self.dtype), self.matrices[i])
        if self.model.bert.multiplexer is not None and config.embed_twice:
            mixture = mixture + self.second[start : start + length]
            norm = self.model.bert.embeddings.LayerNorm
            mixture = nn.functional.layer_norm(
                mixture, norm.normalized_shape, norm.weight.float(), norm.bias.float(), self.eps
            )
        mixture = mixture.to(self.dtype)
        if self.prefix is not None:
            mixture = torch.cat([self.prefix.expand(mixture.shape[0], -1, -1), mixture], dim=1)
        return mixture

    def _positions(self, input_ids: Tensor) -> Tensor:
        """RoBERTa's positions [G, N, L]: see ``PrumuxModel._positions``."""
        real = (input_ids != (self.config.pad_token_id or 0)).long()
        return (real.cumsum(-1) + self.prefix_length) * real + self.config.position_offset - 1


class FastLayer(nn.Module):
    """An encoder layer whose queries may be fewer positions than its keys and values."""

    def __init__(self, layer: EncoderLayer, reads: bool) -> None:
        """``reads``: this is the last layer with attention, after which only the positions that are read go on."""
        super().__init__()
        self.attention = None if layer.attention is None else FastAttention(layer.attention, reads)
        self.intermediate, self.output = layer.intermediate, layer.output

    def forward(self, queries: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """queries [G, Q, D], x [G, L, D] (of which queries are the first), mask bool [G, 1, 1, L] -> [G, Q, D]."""
        if self.attention is not None:
            queries = self.attention(queries, x, mask)
        if self.intermediate is not None:
            assert self.output is not None
            queries = self.output(self.intermediate(queries, None), queries, None, None)
        return queries


class FastAttention(nn.Module):
    """Attention with its projections joined into one matrix product, or two where the queries are fewer."""

    def __init__(self, block: Attention, reads: bool) -> None:
        super().__init__()
        projections = block.self
        self.heads, self.width = projections.num_heads, projections.head_dim
        self.query = projections.query if reads else None
        joined = [projections.key, projections.value]
        self.joined = _join(joined if reads else [projections.query, *joined])
        self.output = block.output

    def forward(self, queries: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        parts = self.joined(x).chunk(2 if self.query is not None else 3, dim=-1)
        if self.query is not None:
            parts = (self.query(queries), *parts)
        query, key, value = (
            part.unflatten(-1, (self.heads, self.width)).transpose(1, 2) for part in parts
        )  # (G, H, positions, width)
        scores = (query * self.width**-0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.float().softmax(-1).to(x.dtype)
        if mask is not None:
            weights = weights.masked_fill(~mask, 0)  # a group without any token attends to nothing
        context = weights @ value
        return self.output(context.transpose(1, 2).flatten(2), queries, None, None)


@torch.no_grad()
def _join(linears: list[nn.Linear]) -> nn.Linear:
    """One linear layer that gives the outputs of several, one behind the other."""
    joined = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears))
    joined.weight.copy_(torch.cat([linear.weight for linear in linears]))
    joined.bias.copy_(torch.cat([linear.bias for linear in linears]))
    return joined
