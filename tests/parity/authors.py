"""What the authors' code computes where ours differs on purpose: their parameter accounting and masked forward.

Only for these tests: with it everything around (gates, multipliers, distillation, optimizers) can be compared with
numbers recorded from their training steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prumux import L0Gates, Masks
from prumux.models.encoder import masked_layer_norm
from prumux.models.heads import PrumuxForSequenceClassification
from prumux.models.modeling import PrumuxOutput
from prumux.pruning.l0 import nonzero_probability


def prunable_size(layers: int, hidden: int, intermediate: int) -> int:
    """Weights and biases of the blocks; the bias of the FFN's first layer counts 4 D, whatever its size."""
    return layers * (4 * hidden * hidden + 4 * hidden + 2 * hidden * intermediate + hidden + 4 * hidden)


def expected_size(gates: L0Gates) -> Tensor:
    """Expected size left: with hidden gates a head counts its bias share, an FFN dimension does not."""
    config = gates.config
    probability = {family: nonzero_probability(value) for family, value in gates.log_alpha.items()}
    heads = (probability["head"] * probability["head_layer"][:, None]).sum()
    inner = (probability["intermediate"] * probability["mlp"][:, None]).sum()
    width, head_dim = config.hidden_size, config.head_dim
    per_head = 4 * width * head_dim + 4 * head_dim
    if "hidden" in probability:
        hidden = probability["hidden"].sum()
        return hidden * heads * per_head / width + hidden * inner * 2
    return heads * per_head + inner * 2 * (width + 1)


def authors_alignment(version: int, distances: Tensor, taught: list[int], alive: list[bool]) -> list[int]:
    """Their version 4: the mask of the surviving layers filters the ranking by loss, as if it were in layer order."""
    lives, limit, matched = torch.tensor(alive), len(alive), []
    for row in reversed(range(len(taught))):
        ranked = distances[row].argsort()
        left = ranked[(ranked < limit) & lives]
        limit = int(left[0]) if len(left) else limit
        matched.append(limit)
    return matched[::-1]


class AuthorsStudent(nn.Module):
    """Their masked model on our weights.

    The hidden mask is missing in the first embedding pass and in the demultiplexer; it multiplies before and after each
    LayerNorm of the second pass and of the encoder, and not where a block reads.
    """

    def __init__(self, model: PrumuxForSequenceClassification) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(
        self, input_ids: Tensor, masks: Masks | None = None, output_hidden_states: bool = True, **_: object
    ) -> PrumuxOutput:
        bert, masks = self.model.bert, masks or Masks()
        z = masks.hidden
        ids = input_ids.clone()
        ids[:, 0] = self.config.first_token_id
        embedded = bert.embeddings(bert.embeddings.word_embeddings(ids), None, None)
        mixture = bert.multiplexer(embedded.unflatten(0, (-1, self.config.num_instances)))
        places = bert.embeddings.position_embeddings.weight[: ids.shape[1]]
        mixture = mixture + places + bert.embeddings.token_type_embeddings.weight[0]
        x = _norm(bert.embeddings.LayerNorm, mixture if z is None else mixture * z, z)
        states = [x]
        for i, layer in enumerate(bert.encoder.layer):
            context = layer.attention.self(x, None, None if masks.head is None else masks.head[i])
            x = _block(
                layer.attention.output,
                context,
                x,
                None if masks.head_layer is None else masks.head_layer[i],
                z,
            )
            inner = layer.intermediate(x, None if masks.intermediate is None else masks.intermediate[i])
            x = _block(layer.output, inner, x, None if masks.mlp is None else masks.mlp[i], z)
            states.append(x)
        first = bert.demultiplexer(x[:, :1], None).flatten(0, 2)
        return PrumuxOutput(logits=self.model.classifier(first), hidden_states=tuple(states))


def _norm(norm: nn.LayerNorm, x: Tensor, z: Tensor | None) -> Tensor:
    return norm(x) if z is None else masked_layer_norm(norm, x, (z != 0).to(x.dtype)) * z


def _block(
    output: nn.Module, inner: Tensor, residual: Tensor, coarse: Tensor | None, z: Tensor | None
) -> Tensor:
    written = output.dense(inner)
    written = written if coarse is None else written * coarse
    written = written if z is None else written * z
    if not written.any():  # a block that writes nothing skips its LayerNorm
        return residual
    return _norm(output.LayerNorm, written + residual, z)
