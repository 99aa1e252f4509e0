"""The gates against the closed form, finite differences and the structures that they really sample."""

from __future__ import annotations

import math

import pytest
import torch

from prumux import L0Gates, Masks
from prumux.pruning.accounting import sparsity
from prumux.pruning.l0 import (
    LOG_ALPHA_BOUNDS,
    evaluation_gate,
    families_of,
    nonzero_probability,
    sample_gate,
    soft_value,
)
from prumux.pruning.masks import FAMILIES

ALL = "structured_heads+structured_mlp+hidden+layer"


def random_gates(config, spread: float = 2.0, pruning_type: str = ALL) -> L0Gates:
    gates = L0Gates(config, pruning_type=pruning_type)
    with torch.no_grad():
        for value in gates.log_alpha.values():
            value.normal_(0.0, spread)
    gates.clamp_()
    return gates


# ---- one gate


def test_probability_is_the_share_of_nonzero_samples():
    noise = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for log_alpha in (-4.0, -1.5, 0.0, 0.7, 3.0):
        value = torch.tensor(log_alpha, dtype=torch.float64)
        share = (sample_gate(value, noise) != 0).double().mean()
        assert nonzero_probability(value).item() == pytest.approx(share.item(), abs=2e-5)
        closed = 1 - torch.sigmoid(2 / 3 * torch.logit(torch.tensor(0.1 / 1.2)) - value)
        assert nonzero_probability(value).item() == pytest.approx(closed.item(), abs=1e-6)


def test_samples_are_the_formula_and_stay_in_the_unit_interval():
    noise = torch.tensor([1e-6, 0.2, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    log_alpha = torch.tensor(0.3, dtype=torch.float64)
    expected = [
        min(1, max(0, 1.2 / (1 + math.exp(-((math.log(u) - math.log(1 - u) + 0.3) / (2 / 3)))) - 0.1))
        for u in noise.tolist()
    ]
    assert sample_gate(log_alpha, noise).tolist() == pytest.approx(expected, abs=1e-9)
    assert expected[0] == 0
    assert expected[-1] == 1
    extremes = sample_gate(torch.tensor([[*LOG_ALPHA_BOUNDS, -50.0, 50.0]]).T, noise.float())
    assert extremes.isfinite().all()
    assert extremes.min() >= 0
    assert extremes.max() <= 1


def test_gradients_equal_finite_differences():
    noise = torch.rand(20, dtype=torch.float64) * 0.6 + 0.2
    log_alpha = torch.linspace(-1, 1, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: sample_gate(a, noise), (log_alpha,))
    assert torch.autograd.gradcheck(nonzero_probability, (log_alpha,))


@pytest.mark.parametrize("values", [[3.0, -4.0, 0.5, -4.5], [1.0] * 5, [-4.6] * 8, [4.6] * 8, [0.0]])
def test_evaluation_keeps_the_expected_number_of_the_largest(values):
    log_alpha = torch.tensor(values)
    gate = evaluation_gate(log_alpha)
    zeros = round(len(values) - nonzero_probability(log_alpha).sum().item())
    assert (gate == 0).sum() == zeros
    kept = gate != 0
    assert torch.equal(gate[kept], torch.sigmoid(0.8 * log_alpha / (2 / 3))[kept])
    if zeros and kept.any():
        assert log_alpha[~kept].max() <= log_alpha[kept].min()


# ---- the gates of a model


@pytest.mark.parametrize(
    ("pruning_type", "families"),
    [
        (ALL, ("head", "intermediate", "hidden", "head_layer", "mlp")),
        ("layer", ("head_layer", "mlp")),
        ("hidden", ("hidden",)),
        ("structured_heads+head", ("head",)),
        ("mlp+layer", ("mlp", "head_layer")),
    ],
)
def test_pruning_types(tiny, pruning_type, families):
    assert families_of(pruning_type) == families
    gates = L0Gates(tiny(), pruning_type=pruning_type)
    assert set(gates.log_alpha) == set(families)
    masked = dict(gates.sample().items())
    assert set(masked) == set(families) == {name for name, _ in gates.deterministic().items()}


@pytest.mark.parametrize(
    "wrong", ["", "heads", "hidden+", "structured_heads,hidden", "Hidden", "hidden layer"]
)
def test_unknown_pruning_types_list_the_choices(wrong):
    with pytest.raises(ValueError, match="structured_heads, structured_mlp, hidden, layer"):
        families_of(wrong)


def test_initial_values(tiny):
    gates = L0Gates(tiny(intermediate_size=400), droprate_init=0.5)
    for family, value in gates.log_alpha.items():
        mean = 0.0 if family == "intermediate" else 10.0
        assert value.mean().item() == pytest.approx(mean, abs=0.02)
        assert 0 < value.std() < 0.03
    assert gates.lambda_1 == gates.lambda_2 == 0
    fine = L0Gates(tiny(), droprate_init=0.2).log_alpha["intermediate"]
    assert fine.mean().item() == pytest.approx(math.log(4), abs=0.02)


def test_clamp(tiny):
    gates = random_gates(tiny(), spread=100.0)
    values = torch.cat([value.flatten() for value in gates.log_alpha.values()])
    assert values.min().item() == pytest.approx(math.log(0.01))
    assert values.max().item() == pytest.approx(math.log(100))
    assert all(value.requires_grad for value in gates.parameters())


def test_sampling_follows_the_seed(tiny):
    gates = random_gates(tiny())
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(gates.sample())
    for family in FAMILIES:
        same, again, other = (getattr(draw, family) for draw in draws)
        assert torch.equal(same, again)
        assert not torch.equal(same, other)


def test_given_noise_is_used(tiny):
    gates = random_gates(tiny())
    noise = Masks(hidden=torch.full((16,), 0.5))
    assert torch.equal(
        gates.sample(noise).hidden, sample_gate(gates.log_alpha["hidden"], torch.full((16,), 0.5))
    )


def test_evaluation_masks_are_repeatable_and_change_nothing(tiny):
    gates = random_gates(tiny())
    before = {name: value.clone() for name, value in gates.state_dict().items()}
    state = torch.get_rng_state()
    first, second = gates.deterministic(), gates.deterministic()
    assert torch.equal(torch.get_rng_state(), state)
    for family in FAMILIES:
        assert torch.equal(getattr(first, family), getattr(second, family))
        assert not getattr(first, family).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in gates.state_dict().items())


def test_at_least_one_hidden_dimension_stays(tiny):
    """Narrow streams expect less than half a dimension at the lower bound."""
    gates = L0Gates(tiny(hidden_size=8), pruning_type="hidden")
    with torch.no_grad():
        gates.log_alpha["hidden"].fill_(-20.0)
        gates.log_alpha["hidden"][5] = -19.0
    gates.clamp_()
    gates.log_alpha["hidden"].data[5] += 0.1
    assert gates.deterministic().hidden.nonzero().flatten().tolist() == [5]
    assert gates.deterministic(-30.0).hidden.nonzero().flatten().tolist() == [5]


# ---- expected sparsity and the Lagrangian


@pytest.mark.parametrize("pruning_type", [ALL, "hidden", "layer", "structured_heads+structured_mlp"])
def test_expected_sparsity_is_the_mean_over_sampled_structures(tiny, pruning_type):
    gates = random_gates(tiny(intermediate_size=40), spread=1.5, pruning_type=pruning_type)
    with torch.no_grad():
        true = [sparsity(gates.config, gates.sample()) for _ in range(500)]
    mean = sum(true) / len(true)
    assert gates.expected_sparsity().item() == pytest.approx(mean, abs=0.03)


def test_expected_sparsity_is_exact_where_nothing_is_uncertain(tiny):
    gates = random_gates(tiny())
    with torch.no_grad():
        for value in gates.log_alpha.values():
            value.copy_((torch.rand_like(value) > 0.3).float() * 80 - 40)
        gates.log_alpha["head"][:, 0] = gates.log_alpha["intermediate"][:, 0] = (
            40.0  # no block dies of its units
        )
    masks = gates.deterministic()
    assert gates.expected_sparsity().item() == pytest.approx(sparsity(gates.config, masks), abs=1e-4)


def test_a_dense_start_expects_almost_nothing_gone(tiny):
    assert 0 <= L0Gates(tiny(), pruning_type="layer+hidden").expected_sparsity() < 1e-3


def test_gradients_of_the_expected_size(tiny):
    gates = random_gates(tiny(intermediate_size=5)).double()
    gates.expected_cost().backward()
    for family, value in gates.log_alpha.items():
        flat, step = value.data.view(-1), 1e-5
        for index in range(0, len(flat), 3):
            with torch.no_grad():
                flat[index] += step
                above = gates.expected_cost()
                flat[index] -= 2 * step
                below = gates.expected_cost()
                flat[index] += step
            slope = ((above - below) / (2 * step)).item()
            assert value.grad.view(-1)[index].item() == pytest.approx(slope, rel=1e-4), (family, index)


def test_lagrangian_is_the_formula(tiny):
    gates = random_gates(tiny())
    with torch.no_grad():
        gates.lambda_1.fill_(-0.7)
        gates.lambda_2.fill_(2.0)
    term, expected = gates.penalty(0.35)
    gap = gates.expected_sparsity().item() - 0.35
    assert term.item() == pytest.approx(-0.7 * gap + 2.0 * gap**2, abs=1e-6)
    assert expected.item() == pytest.approx(gap + 0.35)


@pytest.mark.parametrize("target", [0.0, 0.95])
def test_ascent_on_the_multipliers_pushes_the_gates_towards_the_target(tiny, target):
    gates = random_gates(tiny(), spread=0.5)
    before = gates.expected_sparsity().item()
    multipliers = torch.optim.SGD(gates.multipliers(), lr=1.0, maximize=True)
    gates.penalty(target)[0].backward()
    multipliers.step()
    assert math.copysign(1, gates.lambda_1.item()) == math.copysign(1, before - target)
    assert gates.lambda_2.item() > 0
    alphas = torch.optim.SGD(gates.log_alpha.values(), lr=0.1)
    alphas.zero_grad()
    gates.penalty(target)[0].backward()
    alphas.step()
    assert abs(gates.expected_sparsity().item() - target) < abs(before - target)


def test_the_lagrangian_alone_reaches_the_target(tiny):
    gates = L0Gates(tiny())
    descent = torch.optim.Adam(gates.log_alpha.values(), lr=0.1)
    ascent = torch.optim.Adam(gates.multipliers(), lr=0.1, maximize=True)
    for _ in range(400):
        gates.zero_grad()
        gates.penalty(0.6)[0].backward()
        descent.step()
        ascent.step()
        gates.clamp_()
    assert gates.expected_sparsity().item() == pytest.approx(0.6, abs=0.03)


# ---- compacted models, whose layers differ


def test_layers_of_different_sizes(tiny):
    config = tiny(
        hidden_size=9,
        dense_hidden_size=16,
        head_dim=4,
        kept_hidden=list(range(9)),
        kept_heads=[3, 0],
        kept_intermediate=[5, 20],
    )
    gates = random_gates(config)
    masks = gates.deterministic()
    assert masks.head.shape == (2, 3)
    assert masks.intermediate.shape == (2, 20)
    assert (masks.head[1] == 0).all()
    assert (masks.intermediate[0, 5:] == 0).all()
    with torch.no_grad():
        for value in gates.log_alpha.values():
            value.fill_(40.0)
    assert gates.expected_sparsity().item() == pytest.approx(sparsity(config), abs=1e-4)
    gates.expected_sparsity().backward()
    assert (gates.log_alpha["head"].grad[1] == 0).all(), "a head that is not there must not be trained"
    assert (gates.log_alpha["intermediate"].grad[0, 5:] == 0).all()


def test_a_model_without_attention_or_without_ffn(tiny):
    for gone in ({"kept_heads": [0, 0]}, {"kept_intermediate": [0, 0]}):
        gates = L0Gates(tiny(head_dim=4, **gone))
        assert gates.expected_sparsity() > 0.2
        assert sparsity(gates.config, gates.deterministic(-1.0)) >= sparsity(gates.config)
        gates.sample()


def test_soft_values_grow_with_log_alpha():
    values = soft_value(torch.linspace(*LOG_ALPHA_BOUNDS, 50))
    assert (values.diff() > 0).all()
    assert 0 < values[0] < 0.01
    assert 0.99 < values[-1] < 1
