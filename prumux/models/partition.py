"""Starting weights for a multiplexed model: N narrow encoders side by side, cut out of one pretrained encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from prumux.models.encoder import EncoderLayer
from prumux.models.modeling import PrumuxModel


@torch.no_grad()
def separate_instances(model: PrumuxModel) -> None:
    """Zero every encoder weight between two instances' shares of the width, so that no instance disturbs another.

    An instance's share of the residual stream is where its 0/1 multiplexing vector is 1; heads and FFN dimensions are
    dealt out in equal runs. Each instance is then read by a narrow cut of the pretrained encoder, and training may use
    the zeroed weights again.

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
    stream = vectors.argmax(0)  # (D,)
    for layer in model.encoder.layer:
        assert isinstance(layer, EncoderLayer)
        attention, ffn = layer.attention, layer.intermediate
        if attention is not None:
            heads = _dealt(attention.self.num_heads, instances).repeat_interleave(attention.self.head_dim)
            for projection in (attention.self.query, attention.self.key, attention.self.value):
                projection.weight *= (heads.unsqueeze(1) == stream).to(projection.weight)
            written = attention.output.dense.weight
            written *= (stream.unsqueeze(1) == heads).to(written)
        if ffn is not None and layer.output is not None:
            inner = _dealt(ffn.dense.weight.shape[0], instances)
            ffn.dense.weight *= (inner.unsqueeze(1) == stream).to(ffn.dense.weight)
            layer.output.dense.weight *= (stream.unsqueeze(1) == inner).to(layer.output.dense.weight)


def _dealt(units: int, instances: int) -> Tensor:
    """Whose each of ``units`` is, [units]."""
    return torch.arange(units) * instances // units
