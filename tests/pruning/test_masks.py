"""`Masks` and `resolve`: shapes are checked, dead blocks are found, nothing that is passed in is changed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from prumux import Masks
from prumux.pruning.masks import FAMILIES, resolve

HEADS, FFN, HIDDEN = [4, 4, 4], [6, 6, 6], 8


def ones(**changes: torch.Tensor) -> Masks:
    full = {
        "head": torch.ones(3, 4),
        "head_layer": torch.ones(3),
        "intermediate": torch.ones(3, 6),
        "mlp": torch.ones(3),
        "hidden": torch.ones(8),
    }
    return Masks(**full | changes)


def test_families_are_the_fields():
    assert tuple(name for name, _ in ones().items()) == FAMILIES
    assert list(Masks().items()) == []


def test_masks_are_values():
    masks = Masks(mlp=torch.tensor([1.0, 0.0, 0.5], requires_grad=True))
    halved = masks.map(lambda value: value / 2)
    assert halved.mlp.tolist() == [0.5, 0.0, 0.25]
    assert masks.mlp.tolist() == [1.0, 0.0, 0.5]
    assert halved.head is None
    assert masks.to(torch.float64).mlp.dtype == torch.float64
    assert masks.mlp.requires_grad
    assert not masks.detach().mlp.requires_grad
    with pytest.raises(dataclasses.FrozenInstanceError):
        masks.mlp = None


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("head", (3, 3)),
        ("head", (2, 4)),
        ("head", (12,)),
        ("head_layer", (4,)),
        ("head_layer", (3, 1)),
        ("intermediate", (3, 5)),
        ("mlp", (2,)),
        ("mlp", ()),
        ("hidden", (7,)),
        ("hidden", (9,)),
        ("hidden", (1, 8)),
    ],
)
def test_wrong_shapes_name_both(family, shape):
    with pytest.raises(ValueError, match=rf"masks.{family} has shape .*this encoder needs"):
        resolve(ones(**{family: torch.ones(shape)}), HEADS, FFN, HIDDEN)


def test_without_masks_only_missing_blocks_are_dead():
    layers, stream = resolve(None, [4, 0, 1], [0, 6, 2], HIDDEN)
    assert [layer.attention_alive for layer in layers] == [True, False, True]
    assert [layer.ffn_alive for layer in layers] == [False, True, True]
    assert stream is None


def test_a_block_is_dead_when_its_coarse_mask_or_all_its_units_are_zero():
    head = torch.ones(3, 4)
    head[1] = 0
    intermediate = torch.ones(3, 6)
    intermediate[0] = 0
    masks = ones(
        head=head,
        head_layer=torch.tensor([0.0, 1.0, 1e-6]),
        intermediate=intermediate,
        mlp=torch.tensor([1.0, 0.0, 1.0]),
    )
    layers, _ = resolve(masks, HEADS, FFN, HIDDEN)
    assert [layer.attention_alive for layer in layers] == [False, False, True]
    assert [layer.ffn_alive for layer in layers] == [False, False, True]


def test_rows_of_a_compacted_model_use_their_first_entries():
    """Layer 0 has 2 heads left: its third and fourth entries say nothing, alive or not."""
    head = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    layers, _ = resolve(Masks(head=head), [2, 3, 0], FFN, HIDDEN)
    assert [layer.attention_alive for layer in layers] == [False, True, False]
    assert [len(layer.head) for layer in layers] == [2, 3, 0]


def test_the_stream_mask_knows_when_nothing_is_removed():
    _, stream = resolve(Masks(hidden=torch.full((8,), 0.3)), HEADS, FFN, HIDDEN)
    assert stream.keep is None
    soft = torch.tensor([0.0, 0.2, 1, 1, 1, 1, 1, 0])
    _, stream = resolve(Masks(hidden=soft), HEADS, FFN, HIDDEN)
    assert torch.equal(stream.scale, soft)
    assert stream.keep.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    assert not stream.keep.requires_grad


def test_an_encoder_whose_attention_is_gone_takes_masks():
    layers, _ = resolve(Masks(head=torch.ones(3, 0), mlp=torch.ones(3)), [0, 0, 0], FFN, HIDDEN)
    assert not any(layer.attention_alive for layer in layers)
    assert all(layer.ffn_alive for layer in layers)
