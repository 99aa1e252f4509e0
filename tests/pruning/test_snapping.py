"""`evaluation_masks`: the sparsity that was asked for, counted on the compacted model, or an error with the remedy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prumux import L0Gates, PrumuxConfig, PrumuxForSequenceClassification, compact
from prumux.errors import UserError
from prumux.pruning.accounting import Structure, model_size, sparsity
from prumux.pruning.l0 import LOG_ALPHA_BOUNDS
from prumux.pruning.snapping import evaluation_masks, snap

LOW, HIGH = LOG_ALPHA_BOUNDS
ALL = "structured_heads+structured_mlp+hidden+layer"
CONFIG = PrumuxConfig(
    vocab_size=20, hidden_size=32, num_hidden_layers=3, num_attention_heads=8, intermediate_size=96,
    max_position_embeddings=16, num_instances=2,
)  # fmt: skip


def normal(value: torch.Tensor) -> torch.Tensor:
    return torch.randn(value.shape) * 3


def uniform(value: torch.Tensor) -> torch.Tensor:
    return torch.rand(value.shape) * (HIGH - LOW) + LOW


def at_the_bounds(value: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.rand(value.shape) > 0.5, HIGH, LOW)


def all_kept(value: torch.Tensor) -> torch.Tensor:
    return torch.full(value.shape, HIGH)


def all_gone(value: torch.Tensor) -> torch.Tensor:
    return torch.full(value.shape, LOW)


KINDS = [normal, uniform, at_the_bounds, all_kept, all_gone]


def gates_of(kind, seed: int, pruning_type: str = ALL, config: PrumuxConfig = CONFIG) -> L0Gates:
    torch.manual_seed(seed)
    gates = L0Gates(config, pruning_type=pruning_type)
    with torch.no_grad():
        for value in gates.log_alpha.values():
            value.copy_(kind(value))
    gates.clamp_()
    return gates


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000), target=st.sampled_from([0.3, 0.6, 0.9, 0.95])
)
def test_the_compacted_model_has_the_sparsity_that_was_asked_for(kind, seed, target):
    gates = gates_of(kind, seed)
    masks, moved = evaluation_masks(gates, target, 0.02)
    small = compact(PrumuxForSequenceClassification(CONFIG), masks)
    assert abs(model_size(small).sparsity - target) <= 0.02
    assert model_size(small).sparsity == pytest.approx(sparsity(CONFIG, masks))
    assert moved == (abs(sparsity(CONFIG, gates.deterministic()) - target) > 0.02)


@pytest.mark.parametrize("gone", [("mlp", "intermediate"), ("head", "head_layer"), ("hidden",)])
@pytest.mark.parametrize("target", [0.6, 0.95])
def test_one_sided_gates(gone, target):
    """What the gates want gone first is too much or too little on its own."""
    gates = gates_of(all_kept, 0)
    with torch.no_grad():
        for family in gone:
            gates.log_alpha[family].fill_(LOW)
    assert abs(sparsity(CONFIG, evaluation_masks(gates, target, 0.01)[0]) - target) <= 0.01


@pytest.mark.parametrize(
    ("pruning_type", "target"),
    [
        ("hidden", 0.6),
        ("structured_heads", 0.25),
        ("structured_mlp", 0.5),
        ("structured_heads+structured_mlp", 0.9),
        ("structured_mlp+hidden", 0.95),
        ("structured_mlp+layer", 0.6),
    ],
)
def test_some_families(pruning_type, target):
    gates = gates_of(uniform, 1, pruning_type)
    masks = snap(gates, target, 0.03)
    assert abs(sparsity(CONFIG, masks) - target) <= 0.03
    assert {name for name, _ in masks.items()} == set(gates.log_alpha)


@pytest.mark.parametrize(
    ("pruning_type", "target", "epsilon"),
    [("structured_heads", 0.9, 0.01), ("structured_mlp", 0.8, 0.01), ("layer", 0.5, 1e-4), (ALL, 0.6, 1e-9)],
)
def test_impossible_targets_name_the_remedy(pruning_type, target, epsilon):
    with pytest.raises(
        UserError, match=r"nearest: .*raise --sparsity_epsilon or add families to --pruning_typ"
    ) as e:
        evaluation_masks(gates_of(uniform, 2, pruning_type), target, epsilon)
    assert "\n" not in str(e.value)
    assert f"sparsity {target:g}" in str(e.value)


def test_the_least_important_go_first():
    gates = gates_of(uniform, 3, "structured_mlp")
    masks = snap(gates, 0.3, 0.01)
    for layer in range(
        3
    ):  # the common shift may differ between layers by their expected counts, not within one
        log_alpha, kept = gates.log_alpha["intermediate"][layer], masks.intermediate[layer] != 0
        gone = log_alpha[~kept].sort().values
        assert gone[: len(gone) // 2].max() < log_alpha[kept].min() + 1e-6


def test_masks_within_epsilon_are_left_alone():
    gates = gates_of(normal, 4)
    own = gates.deterministic()
    masks, moved = evaluation_masks(gates, sparsity(CONFIG, own), 0.01)
    assert not moved
    assert all(torch.equal(value, getattr(own, name)) for name, value in masks.items())


def test_kept_units_carry_their_soft_value_and_the_gates_stay():
    gates = gates_of(uniform, 5)
    before = {name: value.clone() for name, value in gates.state_dict().items()}
    masks = snap(gates, 0.6, 0.01)
    for family, value in masks.items():
        soft = torch.sigmoid(gates.log_alpha[family].detach() * 0.8 / (2 / 3))
        assert torch.allclose(value[value != 0], soft[value != 0])
    assert all(torch.equal(value, before[name]) for name, value in gates.state_dict().items())


def test_a_zero_target_keeps_everything():
    assert sparsity(CONFIG, evaluation_masks(gates_of(uniform, 6), 0.0, 0.01)[0]) <= 0.01


def test_one_hidden_dimension_always_stays():
    masks, _ = evaluation_masks(gates_of(all_gone, 7, "hidden"), 0.99, 0.05)
    assert masks.hidden.any()
    compact(PrumuxForSequenceClassification(CONFIG), masks)


def test_a_compacted_model_goes_on_from_where_it_is():
    """Sparsity stays relative to the dense encoder; less than is already gone can't be had."""
    small = compact(PrumuxForSequenceClassification(CONFIG), snap(gates_of(uniform, 8), 0.6, 0.01))
    gates = gates_of(uniform, 9, config=small.config)
    smaller = compact(small, evaluation_masks(gates, 0.9, 0.02)[0])
    assert abs(model_size(smaller).sparsity - 0.9) <= 0.02
    with pytest.raises(UserError, match=r"sparsity is 0.6.* already, above the target"):
        evaluation_masks(gates, 0.3, 0.02)


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([normal, all_kept]),
    seed=st.integers(0, 10_000),
    target=st.sampled_from([0.3, 0.6, 0.9, 0.95]),
    multiple=st.sampled_from([2, 4, 8]),
)
def test_sizes_in_multiples(kind, seed, target, multiple):
    gates = gates_of(kind, seed)
    masks = snap(gates, target, 0.05, multiple)
    left = Structure.of(CONFIG, masks)
    assert sparsity(CONFIG, masks) == pytest.approx(target, abs=0.05)
    assert left.hidden % multiple == 0
    assert all(size % multiple == 0 for size in left.intermediate)


@pytest.mark.parametrize("kind", [normal, all_kept])
def test_sizes_in_multiples_of_a_model_whose_own_are_none(kind):
    config = PrumuxConfig(vocab_size=20, hidden_size=44, num_hidden_layers=3, num_attention_heads=4,
                          intermediate_size=92, max_position_embeddings=16)  # fmt: skip
    left = Structure.of(config, snap(gates_of(kind, 3, config=config), 0.3, 0.1, 8))
    assert left.hidden % 8 == 0
    assert all(size % 8 == 0 for size in left.intermediate)
