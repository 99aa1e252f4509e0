"""Layer and logit distillation against numbers recorded from the authors' trainer (12 layers, width 16)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prumux.pruning.distillation import (
    LayerMap,
    align,
    layer_distillation_loss,
    logit_distillation_loss,
    mean_squared_error,
    teacher_layers,
)
from tests.parity.authors import authors_alignment
from tests.parity.recorded import meta, names, tensors

CASE = "f_layer_distill_12L"
MISSING = names(CASE) == ["missing"]
SETS = ("none", "all", "some_removed", "few_left", "last_only", "first_only", "zero_left")
LAYERS = 12


class Affine(torch.nn.Module):
    """Their layer transformation has a bias; ours is a matrix."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.linear(hidden, self.weight, self.bias)


def states(golden: dict[str, Tensor], who: str) -> tuple[Tensor, ...]:
    return tuple(golden[f"{who}_hidden.{layer}"] for layer in range(LAYERS + 1))


def transformation(golden: dict[str, Tensor], kind: str) -> Affine:
    return Affine(*(golden[f"layer_transformation.{kind}.{part}"] for part in ("weight", "bias")))


def alive(golden: dict[str, Tensor], masks: str) -> list[bool]:
    if masks == "none":
        return [True] * LAYERS
    return (golden[f"zs.{masks}.head_layer_z"] != 0).flatten().tolist()


def distances(golden: dict[str, Tensor], kind: str) -> Tensor:
    """[teacher layer, student layer]"""
    layer_map, student, teacher = (
        transformation(golden, kind),
        states(golden, "student"),
        states(golden, "teacher"),
    )
    with torch.no_grad():
        mapped = [layer_map(hidden) for hidden in student[1:]]
        return torch.stack(
            [torch.stack([mean_squared_error(m, t, None) for m in mapped]) for t in teacher[1:]]
        )


@pytest.mark.parametrize("kind", ["identity", "random"])
def test_distances(kind):
    golden = tensors(CASE)
    torch.testing.assert_close(
        distances(golden, kind), golden[f"pairwise_mse_12x12.{kind}"], rtol=1e-5, atol=1e-6
    )


def test_the_map_starts_as_the_identity():
    golden = tensors(CASE)
    assert torch.equal(
        LayerMap(None, 16, 16).linear.weight.data, golden["layer_transformation.identity.weight"]
    )


def test_which_teacher_layers():
    facts = meta(CASE)
    for version in (3, 4):
        assert teacher_layers(version, LAYERS) == facts["teacher_layers_v3_v4"]
    torch.manual_seed(0)
    seen = [teacher_layers(6, LAYERS) for _ in range(50)]
    for low, high, column in zip((2, 3, 6, 9), (2, 5, 8, 11), zip(*seen, strict=True), strict=True):
        assert set(column) == set(range(low, high + 1))
    recorded = facts["teacher_layers_v6_seed17"]
    assert all(
        low <= layer <= high for low, high, layer in zip((2, 3, 6, 9), (2, 5, 8, 11), recorded, strict=True)
    )
    assert len(set(teacher_layers(5, LAYERS))) == len(facts["teacher_layers_v5_seed17"]) == 4


@pytest.mark.parametrize("kind", ["identity", "random"])
@pytest.mark.parametrize("masks", SETS)
@pytest.mark.parametrize("version", [3, 4])
def test_loss_and_gradient_of_the_map(version, masks, kind):
    """Version 3, and version 4 where no layer is removed: the same losses and gradients."""
    golden, recorded = tensors(CASE), meta(CASE)["results"].get(f"v{version}|{kind}|{masks}", {})
    if "layer_loss" not in recorded:
        pytest.skip("the authors' code crashes here")
    layer_map = transformation(golden, kind)
    loss = layer_distillation_loss(
        states(golden, "student"), states(golden, "teacher"), layer_map, version=version,
        alive=alive(golden, masks),
    )  # fmt: skip
    if version == 4 and masks not in ("none", "all"):
        # on purpose: theirs matches removed layers, so that its loss is another one
        found = distances(golden, kind)[teacher_layers(4, LAYERS)]
        theirs = authors_alignment(4, found, teacher_layers(4, LAYERS), alive(golden, masks))
        assert f"Alignment: tensor({theirs})" in recorded["alignment"][0]
        intended = align(4, found, teacher_layers(4, LAYERS), alive(golden, masks))
        matched = [found[row, layer] for row, layer in enumerate(intended)]
        assert loss.item() == pytest.approx(sum(matched).item(), rel=1e-5)
        return
    loss.backward()
    assert loss.item() == pytest.approx(recorded["layer_loss"], rel=1e-5)
    torch.testing.assert_close(
        layer_map.weight.grad, golden[f"grad_W.v{version}|{kind}|{masks}"], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["identity", "random"])
@pytest.mark.parametrize("masks", SETS)
def test_alignment_keeps_to_surviving_layers_in_their_order(masks, kind):
    """The recorded intended alignment has None where nothing is left below; ours lets the lowest match teach again."""
    golden, facts = tensors(CASE), meta(CASE)
    key = next(name for name in facts if name.startswith("NOT_ORIGINAL_intended_v4"))
    intended = facts[key][f"{kind}|{masks}"]
    lives, taught = alive(golden, masks), teacher_layers(4, LAYERS)
    ours = align(4, distances(golden, kind)[taught], taught, lives)
    if not any(lives):  # all layers are candidates then, theirs crashes
        assert ours == align(4, distances(golden, kind)[taught], taught, [True] * LAYERS)
        return
    lowest = next(layer for layer in intended if layer is not None)
    assert ours == [lowest if layer is None else layer for layer in intended]


@pytest.mark.parametrize("kind", ["identity", "random"])
@pytest.mark.parametrize("version", [5, 6])
def test_losses_for_the_recorded_draw(version, kind, monkeypatch):
    golden, facts = tensors(CASE), meta(CASE)
    recorded = facts["results"][f"v{version}|{kind}|all"]
    drawn = facts[f"teacher_layers_v{version}_seed17"]
    monkeypatch.setattr("prumux.pruning.distillation.teacher_layers", lambda *_: drawn)
    loss = layer_distillation_loss(
        states(golden, "student"), states(golden, "teacher"), transformation(golden, kind), version=version,
        alive=alive(golden, "all"),
    )  # fmt: skip
    assert loss.item() == pytest.approx(recorded["layer_loss"], rel=1e-5)


def test_logits():
    golden, facts = tensors(CASE), meta(CASE)
    recorded = facts["results"]["v3|identity|none"]
    loss = logit_distillation_loss(golden["student_logits"], golden["teacher_logits"], facts["distill_temp"])
    assert loss.item() == pytest.approx(recorded["ce_distill_loss"], rel=1e-5)
    total = (
        facts["distill_ce_loss_alpha"] * loss.item() + facts["distill_loss_alpha"] * recorded["layer_loss"]
    )
    assert total == pytest.approx(recorded["total"], rel=1e-5)
