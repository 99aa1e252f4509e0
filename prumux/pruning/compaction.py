"""`compact`: remove physically what the masks set to 0 and fold the soft values into the weights that are left."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from prumux.models.configuration import PrumuxConfig
from prumux.models.heads import PrumuxClassifier, PrumuxForMaskedLM
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.pruning.masks import Masks, resolve

Model = TypeVar("Model", bound=PrumuxPreTrainedModel)


class _Kept:
    """Indices that survive and the values they carry: the stream's, and each layer's heads and FFN dimensions."""

    gain = False  # does the multiplexer have one

    def __init__(self, config: PrumuxConfig, masks: Masks, device: torch.device) -> None:
        layers, _ = resolve(masks, config.heads_per_layer, config.intermediate_per_layer, config.hidden_size)
        self.stream, self.scale = self._survivors(masks.hidden, config.hidden_size, device)
        if len(self.stream) == 0:
            raise ValueError("masks.hidden removes every hidden dimension: keep at least one")
        self.width, self.head_dim = config.hidden_size, config.head_dim
        self.heads, self.inner, self.coarse = [], [], []
        for layer, heads, inner in zip(
            layers, config.heads_per_layer, config.intermediate_per_layer, strict=True
        ):
            self.heads.append(self._survivors(layer.head, heads if layer.attention_alive else 0, device))
            self.inner.append(self._survivors(layer.intermediate, inner if layer.ffn_alive else 0, device))
            self.coarse.append((_value(layer.head_layer, device), _value(layer.mlp, device)))
        # one more, dense in everything but the stream: the layers of a contextual multiplexer
        self.heads.append(self._survivors(None, config.num_attention_heads, device))
        self.inner.append(self._survivors(None, config.intermediate_size, device))
        self.coarse.append((_value(None, device), _value(None, device)))

    @staticmethod
    def _survivors(mask: Tensor | None, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if mask is None or size == 0:
            return torch.arange(size, device=device), torch.ones(size, device=device)
        index = mask.to(device).nonzero().flatten()
        return index, mask.to(device)[index]

    def columns(self, weight: Tensor) -> Tensor:
        """Input side of a weight [out, k * D] that reads k concatenated streams."""
        parts = [part[:, self.stream] * self.scale for part in weight.split(self.width, dim=1)]
        return torch.cat(parts, dim=1)

    def head_rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Row indices of the kept heads' dimensions, and the heads' mask values repeated for each."""
        heads, values = self.heads[layer]
        rows = heads[:, None] * self.head_dim + torch.arange(self.head_dim, device=heads.device)
        return rows.flatten(), values.repeat_interleave(self.head_dim)


def _value(mask: Tensor | None, device: torch.device) -> Tensor:
    return torch.ones((), device=device) if mask is None else mask.to(device)


def compact(model: Model, masks: Masks) -> Model:
    """A physically smaller model with the same outputs as ``model(..., masks=masks)``.

    Works on dense and on already compacted models; ``model`` is not changed. A sequence classifier loses its retrieval
    head (nothing at inference reads it).

    Raises:
        ValueError: masks of the wrong shape, or no hidden dimension left.
    """
    device = next(model.parameters()).device
    kept = _Kept(model.config, masks.detach(), device)
    with no_init_weights():
        smaller = type(model)(_smaller_config(model, kept))
    dtype = next(model.parameters()).dtype
    smaller = smaller.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers wraps it as a function
    target = smaller.state_dict()
    kept.gain = any(name.endswith("multiplexer.gain") for name in target)
    reader = model.stream_reader if isinstance(model, PrumuxClassifier) else None
    with torch.no_grad():
        state = {
            name: kept.columns(value) if name == reader else _slice(name, value, kept, model.config)
            for name, value in model.state_dict().items()
        }
    smaller.load_state_dict({name: state[name] for name in target})
    return smaller.train(model.training)


def _smaller_config(model: PrumuxPreTrainedModel, kept: _Kept) -> PrumuxConfig:
    config = PrumuxConfig.from_dict(model.config.to_dict())
    before = config.kept_hidden
    if before is None and config.hidden_size == config.dense_hidden_size:
        before = list(range(config.hidden_size))
    # of a converted checkpoint it may be unknown which dimensions it has: then it stays unknown
    config.kept_hidden = None if before is None else [before[i] for i in kept.stream.tolist()]
    config.hidden_size = len(kept.stream)
    config.kept_heads = [len(index) for index, _ in kept.heads[:-1]]
    config.kept_intermediate = [len(index) for index, _ in kept.inner[:-1]]
    if isinstance(model, PrumuxClassifier):
        config.retrieval_loss_coeff = 0.0
    if isinstance(model, PrumuxForMaskedLM):
        config.tie_word_embeddings = False
    return config


def _slice(name: str, value: Tensor, kept: _Kept, config: PrumuxConfig) -> Tensor:
    """What is left of the parameter ``name``."""
    name = name.removeprefix("bert.").replace("lm_head.demultiplexer.", "demultiplexer.")
    layer = re.match(r"encoder\.layer\.(\d+)\.(.*)", name)
    if layer:
        return _LAYER[layer[2]](value, kept, int(layer[1]))
    if inside := re.match(r"multiplexer\.(?:rows|across)\.(.*)", name):
        return _LAYER[inside[1]](value, kept, -1)
    if name == "multiplexer.gain":
        return value[kept.stream] * kept.scale
    if name == "multiplexer.vectors" and kept.gain:
        return value[:, kept.stream]  # the gain carries the mask's value
    if name in ("prefix_embeddings",) or re.match(r"embeddings\..*_embeddings", name):
        return value[:, kept.stream] * kept.scale
    if name.startswith("embeddings.LayerNorm"):
        return value[kept.stream]
    if name == "multiplexer.vectors":
        # [N, D] or, for matrices, [N, out, in]: what the mixture writes carries the mask's value
        value = value[:, kept.stream] * kept.scale.view(-1, *(1,) * (value.dim() - 2))
        return value if value.dim() == 2 else value[:, :, kept.stream]
    if name == "demultiplexer.keys":
        return value[:, kept.stream]
    if re.match(r"demultiplexer\.first\..*weight|pooler\.dense\.weight", name):
        return kept.columns(value)
    if name == "lm_head.transform.0.weight" and not config.is_multiplexed:
        return kept.columns(value)
    return value


def _project_rows(value: Tensor, kept: _Kept, layer: int) -> Tensor:
    value = value[kept.head_rows(layer)[0]]
    return kept.columns(value) if value.dim() == 2 else value


def _norm(value: Tensor, kept: _Kept, layer: int) -> Tensor:
    return value[kept.stream]


def _attention_out(value: Tensor, kept: _Kept, layer: int) -> Tensor:
    written = kept.scale * kept.coarse[layer][0]
    if value.dim() == 1:
        return value[kept.stream] * written
    rows, values = kept.head_rows(layer)
    return value[kept.stream][:, rows] * values * written[:, None]


def _ffn_in(value: Tensor, kept: _Kept, layer: int) -> Tensor:
    value = value[kept.inner[layer][0]]
    return kept.columns(value) if value.dim() == 2 else value


def _ffn_out(value: Tensor, kept: _Kept, layer: int) -> Tensor:
    block = kept.coarse[layer][1]
    if value.dim() == 1:
        return value[kept.stream] * block  # the FFN's bias does not carry the hidden mask, see ResidualOutput
    index, values = kept.inner[layer]
    return value[kept.stream][:, index] * values * (kept.scale * block)[:, None]


def _both(
    prefix: str, rule: Callable[[Tensor, _Kept, int], Tensor]
) -> dict[str, Callable[[Tensor, _Kept, int], Tensor]]:
    return {f"{prefix}.weight": rule, f"{prefix}.bias": rule}


_LAYER: dict[str, Callable[[Tensor, _Kept, int], Tensor]] = {
    **_both("attention.self.query", _project_rows),
    **_both("attention.self.key", _project_rows),
    **_both("attention.self.value", _project_rows),
    **_both("attention.output.dense", _attention_out),
    **_both("attention.output.LayerNorm", _norm),
    **_both("intermediate.dense", _ffn_in),
    **_both("output.dense", _ffn_out),
    **_both("output.LayerNorm", _norm),
}
