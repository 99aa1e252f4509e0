"""Starting weights for a multiplexed model: N narrow encoders side by side, cut out of one pretrained encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prumux.models.encoder import EncoderLayer
from prumux.models.modeling import PrumuxModel


@torch.no_grad()
def separate_instances(model: PrumuxModel, importance: Mapping[str, Tensor] | None = None) -> None:
    """Give every instance a narrow copy of the encoder, in its own share of the width.

    An instance's share of the residual stream is where its 0/1 multiplexing vector is 1; heads and FFN dimensions are
    dealt out in equal runs. Its copy has the most important units of each kind. Weights between two shares become 0, so
    that at the start no instance disturbs another; training may use them again.

    Args:
        model: with the weights of the plain encoder.
        importance: per family of ``Masks`` (``hidden`` [D], ``head`` [layers, H], ``intermediate`` [layers, F]), larger
            is kept; without it every share has the units that stand in its place.

    Raises:
        ValueError: multiplexing vectors that overlap, or that are not 0 and 1.
    """
    instances = model.config.num_instances
    vectors = None if model.multiplexer is None else model.multiplexer.vectors
    if vectors is None or vectors.dim() != 2 or not bool(((vectors != 0).sum(0) == 1).all()):
        raise ValueError(
            "instances can be separated where each has dimensions of its own: give --muxing_variant binary_hadamard "
            "--binary_hadamard_epsilon 0"
        )
    importance = importance or {}
    owner = vectors.argmax(0).cpu()  # (D,)
    stream = _sources(owner, importance.get("hidden"))
    tables = model.embeddings
    for table in (tables.word_embeddings, tables.position_embeddings, tables.token_type_embeddings):
        table.weight.copy_(table.weight[:, stream])
    _norm(tables.LayerNorm, stream)
    for number, layer in enumerate(model.encoder.layer):
        assert isinstance(layer, EncoderLayer)
        if layer.attention is not None:
            attention, out = layer.attention.self, layer.attention.output
            whose = _dealt(attention.num_heads, instances)
            heads = _sources(whose, _row(importance.get("head"), number))
            width = attention.head_dim
            units = (heads.unsqueeze(1) * width + torch.arange(width)).flatten()
            whose = whose.repeat_interleave(width)
            for projection in (attention.query, attention.key, attention.value):
                _block(projection, units, whose, stream, owner)
            _block(out.dense, stream, owner, units, whose)
            _norm(out.LayerNorm, stream)
        if layer.intermediate is not None and layer.output is not None:
            whose = _dealt(layer.intermediate.dense.weight.shape[0], instances)
            units = _sources(whose, _row(importance.get("intermediate"), number))
            _block(layer.intermediate.dense, units, whose, stream, owner)
            _block(layer.output.dense, stream, owner, units, whose)
            _norm(layer.output.LayerNorm, stream)


def _row(importance: Tensor | None, layer: int) -> Tensor | None:
    return None if importance is None else importance[layer]


def _dealt(units: int, instances: int) -> Tensor:
    """Whose each of ``units`` is, [units]."""
    return torch.arange(units) * instances // units


def _sources(owner: Tensor, importance: Tensor | None) -> Tensor:
    """Which old unit stands at each place, [units]: in every share the most important ones."""
    if importance is None:
        return torch.arange(len(owner))
    ranked = importance.cpu().argsort(descending=True)
    sources = torch.empty_like(owner)
    for instance in owner.unique():
        places = (owner == instance).nonzero().flatten()
        sources[places] = ranked[: len(places)]
    return sources


def _block(linear: nn.Linear, rows: Tensor, row_owner: Tensor, columns: Tensor, column_owner: Tensor) -> None:
    """Reorder a linear layer to the chosen units, and zero what connects two instances."""
    same = (row_owner.unsqueeze(1) == column_owner).to(linear.weight)
    linear.weight.copy_(linear.weight[rows][:, columns] * same)
    linear.bias.copy_(linear.bias[rows])


def _norm(norm: nn.LayerNorm, stream: Tensor) -> None:
    norm.weight.copy_(norm.weight[stream])
    norm.bias.copy_(norm.bias[stream])
