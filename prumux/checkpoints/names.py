"""The authors' tensor names -> ours, with what is there several times checked to agree.

Names of BERT itself are the same on both sides. ``COPIES`` are three names of one module, of which a file may hold any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from prumux.errors import UserError

Pairs = list[tuple[str, str]]  # (our name, their name)
COPIES = ("demultiplexer.demux_module.", "demux_module.", "retrieval_head.demux_module.")
# What the authors' modules hold beside what is read.
UNREAD_SHARED = re.compile(r"(dense|layer_norm)_\d+\.(weight|bias)")
UNREAD_HEAD = re.compile(
    r"retrieval_head\.((dense|layer_norm|pre_decoder|decoder|demux_module)[a-z_]*\d*\..*|bias)"
)
UNUSED = re.compile(r"(.*\.)?position_ids|layer_transformation\..*|cls\..*|lm_head\..*|l0_module\..*")


class Names:
    """A checkpoint's tensors, taken one by one; what is left at the end was not understood."""

    def __init__(self, tensors: dict[str, Tensor], backbone: str) -> None:
        """``backbone`` is ``bert`` or ``roberta``; the latter's retrieval head has a demultiplexer of its own."""
        encoder = f"{backbone}."
        self.left = {name: value for name, value in tensors.items() if not UNUSED.fullmatch(name)}
        self.left = {
            ("bert." + name.removeprefix(encoder) if name.startswith(encoder) else name): value
            for name, value in self.left.items()
        }
        self.shared = self._merge_copies(COPIES if backbone == "bert" else COPIES[:2])
        self._taken: set[str] = set()

    def _merge_copies(self, copies: tuple[str, ...]) -> dict[str, Tensor]:
        merged: dict[str, Tensor] = {}
        seen: dict[str, str] = {}
        for copy in copies:
            for name in [name for name in self.left if name.startswith(copy)]:
                value, short = self.left.pop(name), name.removeprefix(copy)
                if short in merged and not _same(merged[short], value):
                    raise UserError(
                        f"{seen[short]} and {name} should be the same tensor but differ: the checkpoint is damaged"
                    )
                merged.setdefault(short, value)
                seen.setdefault(short, name)
        return merged

    def take(self, name: str) -> Tensor:
        """Remove a tensor that must be there."""
        if name not in self.left:
            raise UserError(
                f"the checkpoint has no {name}: it is incomplete, or of another kind than its config says"
            )
        return self.left.pop(name)

    def take_shared(self, name: str) -> Tensor:
        """A tensor of the demultiplexing module."""
        if name not in self.shared:
            raise UserError(
                f"the checkpoint has no demux_module.{name}: it is incomplete, or of another kind than its config says"
            )
        self._taken.add(name)
        return self.shared[name]

    def take_all(self, prefix: str) -> dict[str, Tensor]:
        """Remove everything below ``prefix``."""
        return {name: self.left.pop(name) for name in list(self.left) if name.startswith(prefix)}

    def check_tied(self, name: str, other: str, value: Tensor) -> None:
        """Remove ``name``, if it is there, after checking that it is the same as ``value``."""
        mine = self.left.pop(name, None)
        if mine is not None and not _same(mine, value):
            raise UserError(
                f"{name} and {other} should be the same tensor but differ: the checkpoint is damaged"
            )

    def check_nothing_left(self) -> None:
        unread = [
            f"demux_module.{name}"
            for name in set(self.shared) - self._taken
            if not UNREAD_SHARED.fullmatch(name)
        ]
        left = [name for name in self.left if not UNREAD_HEAD.fullmatch(name)] + unread
        if left:
            some = ", ".join(sorted(left)[:4])
            raise UserError(f"the checkpoint holds tensors that this format does not have: {some}")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def both(target: str, source: str) -> Pairs:
    """Weight and bias of a module: pairs (our name, their name)."""
    return [(f"{target}.{part}", f"{source}.{part}") for part in ("weight", "bias")]


def demultiplexer_names(variant: str, num_instances: int, num_layers: int) -> tuple[Pairs, Pairs]:
    """Pairs (ours, theirs) of the demultiplexer: of the shared module, and of the rest."""
    if variant == "index_pos":
        shared = [("keys", "demux_instance_embedding"), *both("first", "dense_1")]
        shared += [pair for j in range(num_layers - 2) for pair in both(f"inner.{j}", f"dense_{j + 2}")]
        own = [*both("last", "pre_decoder"), *both("norm", "pre_decoder_layer_norm")]
    elif variant == "index":
        shared, own = [], [*both("first", "dense"), *both("norm", "layer_norm")]
    else:  # mlp
        shared = [pair for i in range(num_instances) for pair in both(f"first.{i}", f"dense_{i}")]
        shared += [pair for i in range(num_instances) for pair in both(f"norms.{i}", f"layer_norm_{i}")]
        own = [*both("last", "dense_before_out_proj"), *both("norm", "layernorm")]
    return shared, own


def retrieval_names(variant: str, num_instances: int) -> tuple[Pairs, Pairs]:
    """Pairs (ours, theirs) of the vocabulary head's own demultiplexer: of the shared module, and of the rest."""
    if variant == "index_pos":
        shared = [("keys", "demux_instance_embedding"), *both("first", "dense_1"), *both("second", "dense_2")]
        shared += [*both("norms.0", "layer_norm_1"), *both("norms.1", "layer_norm_2")]
        return shared, [*both("last", "pre_decoder"), *both("norm", "pre_decoder_layer_norm")]
    if variant == "index":
        return [], [*both("first", "dense"), *both("norm", "layer_norm")]
    shared, _ = demultiplexer_names(variant, num_instances, 0)
    return shared, [*both("last", "dense_pre_vocab"), *both("norm", "layer_norm_pre_vocab")]


def layers_with(names: Iterable[str], part: str) -> set[int]:
    """Numbers of the encoder layers that have a tensor ``part``."""
    found = (re.fullmatch(rf"bert\.encoder\.layer\.(\d+)\.{re.escape(part)}", name) for name in names)
    return {int(match[1]) for match in found if match}
