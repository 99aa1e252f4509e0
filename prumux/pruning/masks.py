"""`Masks`: the one typed object in which pruning decisions travel from the gates to the encoder and to compaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

FAMILIES = ("head", "head_layer", "intermediate", "mlp", "hidden")


@dataclass(frozen=True)
class Masks:
    """Mask values in [0, 1] per structural unit; ``None`` leaves a whole family dense (paper section 3.1, phase 3).

    Attributes:
        head: ``[layers, heads]``, multiplies each head's context vectors.
        head_layer: ``[layers]``, multiplies the output of a whole attention block.
        intermediate: ``[layers, ffn]``, multiplies the FFN activations.
        mlp: ``[layers]``, multiplies the output of a whole FFN block.
        hidden: ``[hidden_size]``, multiplies what is read from and written to the residual stream.

    A block whose coarse mask is 0, or whose fine masks are all 0, is removed: the residual stream passes it unchanged.
    For an already compacted model whose layers differ in size, row ``l`` uses its first ``kept_heads[l]``
    (``kept_intermediate[l]``) entries.
    """

    head: Tensor | None = None
    head_layer: Tensor | None = None
    intermediate: Tensor | None = None
    mlp: Tensor | None = None
    hidden: Tensor | None = None

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The families that are masked, by name."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                yield field.name, value

    def map(self, function: Callable[[Tensor], Tensor]) -> Masks:
        """A new object with ``function`` applied to every tensor."""
        return Masks(**{name: function(value) for name, value in self.items()})

    def to(self, *args: Any, **kwargs: Any) -> Masks:
        return self.map(lambda value: value.to(*args, **kwargs))

    def detach(self) -> Masks:
        return self.map(Tensor.detach)

    def check(self, heads: list[int], intermediate: list[int], hidden_size: int) -> None:
        """Raise ``ValueError`` when a tensor's shape does not fit an encoder.

        Args:
            heads: number of heads that each layer has (0 = no attention block).
            intermediate: number of FFN dimensions that each layer has (0 = no FFN block).
            hidden_size: width of the residual stream.
        """
        layers = len(heads)
        expected = {
            "head": (layers, max(heads, default=0)),
            "head_layer": (layers,),
            "intermediate": (layers, max(intermediate, default=0)),
            "mlp": (layers,),
            "hidden": (hidden_size,),
        }
        for name, value in self.items():
            shape, wanted = tuple(value.shape), expected[name]
            wide_enough = (
                len(shape) == 2 and len(wanted) == 2 and shape[0] == wanted[0] and shape[1] >= wanted[1]
            )
            if shape != wanted and not wide_enough:
                raise ValueError(f"masks.{name} has shape {shape}, this encoder needs {wanted}")


@dataclass(frozen=True)
class LayerMasks:
    """The masks of one layer, ready to multiply; ``None`` means nothing to multiply with."""

    attention_alive: bool
    ffn_alive: bool
    head: Tensor | None = None  # (H,)
    head_layer: Tensor | None = None  # ()
    intermediate: Tensor | None = None  # (F,)
    mlp: Tensor | None = None  # ()


@dataclass(frozen=True)
class StreamMask:
    """The hidden mask: ``scale`` multiplies reads and writes, ``keep`` (0/1) names the dimensions left."""

    scale: Tensor  # (D,)
    keep: Tensor | None  # (D,), None when every dimension is kept


def resolve(
    masks: Masks | None, heads: list[int], intermediate: list[int], hidden_size: int
) -> tuple[list[LayerMasks], StreamMask | None]:
    """Cut ``masks`` into per-layer pieces and decide which blocks are alive.

    All decisions are fetched from the device in ONE transfer per forward, so that dead blocks cost neither compute nor
    a synchronisation each.
    """
    if masks is None:
        return [LayerMasks(h > 0, f > 0) for h, f in zip(heads, intermediate, strict=True)], None
    masks.check(heads, intermediate, hidden_size)
    layers = range(len(heads))
    head = [None if masks.head is None else masks.head[i, : heads[i]] for i in layers]
    inner = [None if masks.intermediate is None else masks.intermediate[i, : intermediate[i]] for i in layers]
    attention_alive, ffn_alive, all_kept = _alive(masks, head, inner)
    per_layer = [
        LayerMasks(
            attention_alive=heads[i] > 0 and attention_alive[i],
            ffn_alive=intermediate[i] > 0 and ffn_alive[i],
            head=head[i],
            head_layer=None if masks.head_layer is None else masks.head_layer[i],
            intermediate=inner[i],
            mlp=None if masks.mlp is None else masks.mlp[i],
        )
        for i in layers
    ]
    if masks.hidden is None:
        return per_layer, None
    keep = None if all_kept else (masks.hidden != 0).to(masks.hidden.dtype)
    return per_layer, StreamMask(masks.hidden, keep)


def _alive(
    masks: Masks, head: list[Tensor | None], inner: list[Tensor | None]
) -> tuple[list[bool], list[bool], bool]:
    """Per layer: does the attention block and the FFN block survive; and does every hidden dimension."""
    layers = len(head)
    device = next((value.device for _, value in masks.items()), torch.device("cpu"))
    true = torch.ones((), dtype=torch.bool, device=device)
    flags = []
    for fine, coarse in ((head, masks.head_layer), (inner, masks.mlp)):
        for i in range(layers):
            unit = fine[i]
            alive = true if unit is None else (unit != 0).any()
            flags.append(alive if coarse is None else alive & (coarse[i] != 0))
    flags.append(true if masks.hidden is None else (masks.hidden != 0).all())
    values: list[bool] = torch.stack(flags).tolist()
    return values[:layers], values[layers : 2 * layers], values[-1]
