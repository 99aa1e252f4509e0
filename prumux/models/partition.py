"""Starting weights for a multiplexed model: N copies of a narrow encoder side by side."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from prumux.models.encoder import EncoderLayer
from prumux.models.modeling import PrumuxModel


@torch.no_grad()
def put_side_by_side(model: PrumuxModel, narrow: PrumuxModel) -> None:
    """Give every instance of ``model`` a copy of ``narrow`` in its own share of the width.

    An instance's share of the residual stream is where its 0/1 multiplexing vector is 1; heads and FFN dimensions are
    dealt out in equal runs. Weights between two shares, and those of units that no copy fills, become 0: at the start
    no instance disturbs another but through the LayerNorms' statistics. Training may use all of them.

    Args:
        model: multiplexed, not pruned; multiplexer, demultiplexer and head keep their weights.
        narrow: without multiplexing, with as many layers, and at most the units of a share.

    Raises:
        ValueError: one instance, vectors that overlap or are not 0 and 1, or a ``narrow`` that doesn't fit.
    """
    copies = model.config.num_instances
    if copies == 1:
        raise ValueError("one instance has nobody beside it: give --num_instances 2 or more")
    vectors = None if model.multiplexer is None else model.multiplexer.vectors
    if vectors is None or vectors.dim() != 2 or not bool(((vectors != 0).sum(0) == 1).all()):
        raise ValueError(
            "copies stand side by side where each instance has dimensions of its own: give --muxing_variant "
            "binary_hadamard --binary_hadamard_epsilon 0"
        )
    if narrow.config.is_multiplexed or len(narrow.encoder.layer) != len(model.encoder.layer):
        raise ValueError("copies are made of a model without multiplexing that has as many layers")
    stream = _shares(
        [int((vectors != 0)[i].sum()) for i in range(copies)], narrow.config.hidden_size, "hidden size"
    )
    for table, source in zip(_tables(model), _tables(narrow), strict=True):
        _fill(table.weight, source.weight, None, stream)
    _norm(model.embeddings.LayerNorm, narrow.embeddings.LayerNorm, stream)
    for mine, its in zip(model.encoder.layer, narrow.encoder.layer, strict=True):
        assert isinstance(mine, EncoderLayer)
        assert isinstance(its, EncoderLayer)
        _copy_attention(mine, its, stream, copies)
        _copy_ffn(mine, its, stream, copies)


Places = list[Tensor]  # per copy, where its units stand


def _tables(model: PrumuxModel) -> list[nn.Embedding]:
    tables = model.embeddings
    return [tables.word_embeddings, tables.position_embeddings, tables.token_type_embeddings]


def _shares(sizes: list[int], units: int, what: str) -> Places:
    if units > min(sizes):
        remedy = f"prune with --narrow_for {len(sizes)}" if min(sizes) else "give a smaller --num_instances"
        raise ValueError(
            f"copies of {what} {units} don't fit: {min(sizes)} is the most of {len(sizes)} side by side; {remedy}"
        )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [torch.arange(start, start + units) for start in starts]


def _dealt(units: int, copies: int) -> list[int]:
    """Units of each share."""
    return [end - start for start, end in pairwise(units * i // copies for i in range(copies + 1))]


def _copy_attention(mine: EncoderLayer, its: EncoderLayer, stream: Places, copies: int) -> None:
    if mine.attention is None:
        return
    own, out = mine.attention.self, mine.attention.output
    if its.attention is None:
        raise ValueError("a layer of the narrow model has no attention block left: prune with --narrow_for")
    other = its.attention
    width = own.head_dim
    heads = _shares(_dealt(own.num_heads, copies), other.self.num_heads, "heads")
    units = [(place.unsqueeze(1) * width + torch.arange(width)).flatten() for place in heads]
    for name in ("query", "key", "value"):
        _linear(getattr(own, name), getattr(other.self, name), units, stream)
    _linear(out.dense, other.output.dense, stream, units)
    _norm(out.LayerNorm, other.output.LayerNorm, stream)


def _copy_ffn(mine: EncoderLayer, its: EncoderLayer, stream: Places, copies: int) -> None:
    if mine.intermediate is None or mine.output is None:
        return
    if its.intermediate is None or its.output is None:
        raise ValueError("a layer of the narrow model has no FFN block left: prune with --narrow_for")
    first, other = mine.intermediate.dense, its.intermediate.dense
    units = _shares(_dealt(first.out_features, copies), other.out_features, "FFN dimensions")
    _linear(first, other, units, stream)
    _linear(mine.output.dense, its.output.dense, stream, units)
    _norm(mine.output.LayerNorm, its.output.LayerNorm, stream)


def _fill(target: Tensor, source: Tensor, rows: Places | None, columns: Places) -> None:
    """Zero ``target`` but for a copy of ``source`` at each place; ``rows`` ``None``: the same for all."""
    target.zero_()
    for i, place in enumerate(columns):
        if rows is None:
            target[:, place] = source
        else:
            target[rows[i].unsqueeze(1), place] = source


def _linear(mine: nn.Linear, its: nn.Linear, rows: Places, columns: Places) -> None:
    _fill(mine.weight, its.weight, rows, columns)
    mine.bias.zero_()
    for place in rows:
        mine.bias[place] = its.bias


def _norm(mine: nn.LayerNorm, its: nn.LayerNorm, stream: Places) -> None:
    for target, source in ((mine.weight, its.weight), (mine.bias, its.bias)):
        target.zero_()
        for place in stream:
            target[place] = source
