"""Counting parameters: the one place that says what sparsity means.

Prunable are the linear layers of the encoder's attention and FFN blocks, weights and biases. Sparsity is the share of
them that is removed, relative to the dense encoder; embeddings, LayerNorms, multiplexer, demultiplexer and head are not
part of it (as in CoFi, but with the biases counted exactly).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prumux.models.configuration import PrumuxConfig
from prumux.pruning.masks import Masks, resolve

MAX_SPARSITY = 0.99  # the most that is asked for
Number = float | Tensor


def attention_parameters(hidden: Number, heads: Number, present: Number, head_dim: int) -> Number:
    """Linear-layer parameters of an attention block with ``heads`` heads at stream width ``hidden``."""
    return heads * (4 * hidden * head_dim + 3 * head_dim) + present * hidden


def ffn_parameters(hidden: Number, intermediate: Number, present: Number) -> Number:
    """Linear-layer parameters of an FFN block with ``intermediate`` dimensions at stream width ``hidden``."""
    return intermediate * (2 * hidden + 1) + present * hidden


@dataclass(frozen=True)
class Structure:
    """The sizes that decide an encoder's cost: stream width, and heads and FFN dimensions per layer."""

    hidden: int
    heads: tuple[int, ...]
    intermediate: tuple[int, ...]
    head_dim: int

    @classmethod
    def of(cls, config: PrumuxConfig, masks: Masks | None = None) -> Structure:
        """The structure of a model, or the one that is left of it under ``masks``."""
        heads, inner, hidden = config.heads_per_layer, config.intermediate_per_layer, config.hidden_size
        if masks is not None:
            masks = masks.detach().to("cpu")  # at once, not a wait for the accelerator for each block
        layers, _ = resolve(masks, heads, inner, hidden)
        left = [
            _left(layer.head, size) if layer.attention_alive else 0
            for layer, size in zip(layers, heads, strict=True)
        ]
        inner_left = [
            _left(layer.intermediate, size) if layer.ffn_alive else 0
            for layer, size in zip(layers, inner, strict=True)
        ]
        width = hidden if masks is None else _left(masks.hidden, hidden)
        return cls(width, tuple(left), tuple(inner_left), config.head_dim)

    @classmethod
    def dense(cls, config: PrumuxConfig) -> Structure:
        """The structure before any pruning."""
        layers = config.num_hidden_layers
        return cls(
            config.dense_hidden_size,
            (config.num_attention_heads,) * layers,
            (config.intermediate_size,) * layers,
            config.head_dim,
        )

    @property
    def parameters(self) -> int:
        """Prunable parameters of the encoder."""
        attention = sum(attention_parameters(self.hidden, h, h > 0, self.head_dim) for h in self.heads)
        return int(attention + sum(ffn_parameters(self.hidden, f, f > 0) for f in self.intermediate))


def _left(mask: Tensor | None, size: int) -> int:
    return size if mask is None else int(torch.count_nonzero(mask))


def sparsity(config: PrumuxConfig, masks: Masks | None = None) -> float:
    """Share of the dense encoder's prunable parameters that is gone, in [0, 1]."""
    return 1 - Structure.of(config, masks).parameters / Structure.dense(config).parameters


class Cost:
    """What an encoder's structure costs: here its prunable parameters; a subclass may count something else.

    ``attention`` and ``ffn`` must also take expected, differentiable sizes (scalar tensors).
    """

    unit = "sparsity"  # how messages name what is removed

    def __init__(self, config: PrumuxConfig) -> None:
        self.config = config

    def attention(self, hidden: Number, heads: Number, later: Number = 1.0) -> Number:
        """Cost of an attention block that is there.

        ``later``: (the probability that) another attention block follows, which reads all positions.
        """
        return attention_parameters(hidden, heads, 1, self.config.head_dim)

    def ffn(self, hidden: Number, intermediate: Number, later: Number = 1.0) -> Number:
        """Cost of an FFN block that is there; ``later`` as for attention."""
        return ffn_parameters(hidden, intermediate, 1)

    def total(self, structure: Structure) -> float:
        """Cost of all blocks of a structure."""
        later = [float(any(structure.heads[i + 1 :])) for i in range(len(structure.heads))]
        attention = [
            self.attention(structure.hidden, h, x) for h, x in zip(structure.heads, later, strict=True) if h
        ]
        ffn = [
            self.ffn(structure.hidden, f, x) for f, x in zip(structure.intermediate, later, strict=True) if f
        ]
        return float(sum(attention) + sum(ffn))

    @functools.cached_property
    def dense(self) -> float:
        """Cost of the dense encoder."""
        return self.total(Structure.dense(self.config))

    def removed(self, masks: Masks | None = None) -> float:
        """Share of the dense encoder's cost that is gone, in [0, 1]."""
        return 1 - self.total(Structure.of(self.config, masks)) / self.dense


@dataclass(frozen=True)
class ModelSize:
    """Parameter counts of a model (fixed multiplexing vectors included, tied weights counted once)."""

    total: int
    without_embeddings: int
    encoder: int
    dense_encoder: int
    sparsity: float


def model_size(model: nn.Module) -> ModelSize:
    """Count the parameters of a PruMUX model as it is now.

    ``without_embeddings`` leaves out the word, position and token type tables; ``encoder`` counts what is prunable.
    """
    tensors = [*model.parameters(), *(b for _, b in model.named_buffers())]
    total = sum(tensor.numel() for tensor in tensors)
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    assert isinstance(model.config, PrumuxConfig)
    encoder, dense = Structure.of(model.config).parameters, Structure.dense(model.config).parameters
    return ModelSize(total, total - tables, encoder, dense, 1 - encoder / dense)
