"""Layer matching and the distillation losses, for every version and any depth, against plain references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from prumux.pruning.distillation import (
    VERSIONS,
    LayerMap,
    align,
    layer_distillation_loss,
    logit_distillation_loss,
    mean_squared_error,
    state_distillation_loss,
    teacher_layers,
)

DEPTHS = (1, 2, 3, 4, 6, 12, 24)


# ---- which layers teach


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("version", VERSIONS)
def test_taught_layers_exist_and_ascend(version, layers):
    for seed in range(20):
        torch.manual_seed(seed)
        taught = teacher_layers(version, layers)
        assert taught == sorted(set(taught))
        assert taught[0] >= 0
        assert taught[-1] < layers
        assert len(taught) == (layers if version == 2 else min(4, layers))


def test_the_papers_layers():
    for version in (3, 4):
        assert teacher_layers(version, 12) == [2, 5, 8, 11]
        assert teacher_layers(version, 24) == [5, 11, 17, 23]
        assert teacher_layers(version, 4) == [0, 1, 2, 3]
        assert [teacher_layers(version, layers)[-1] for layers in DEPTHS] == [n - 1 for n in DEPTHS]
    assert teacher_layers(2, 3) == [0, 1, 2]


def test_random_layers_cover_their_ranges_and_follow_the_seed():
    drawn = [teacher_layers(6, 12) for _ in range(300)]
    quarters = [sorted({row[i] for row in drawn}) for i in range(4)]
    assert quarters == [[2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert {layer for _ in range(300) for layer in teacher_layers(5, 12)} == set(range(12))
    for version in (5, 6):
        torch.manual_seed(5)
        first = [teacher_layers(version, 24) for _ in range(5)]
        torch.manual_seed(5)
        assert [teacher_layers(version, 24) for _ in range(5)] == first
        assert first != [first[0]] * 5


@pytest.mark.parametrize("version", [0, 1, 7, "4"])
def test_unknown_versions(version):
    with pytest.raises(ValueError, match=r"layer_distill_version .*\(2, 3, 4, 5, 6\)"):
        teacher_layers(version, 12)


# ---- who learns


def test_version_2_skips_removed_layers():
    assert align(2, torch.empty(0), [0, 1, 2], [True, False, True]) == [0, None, 2]


def test_version_3_takes_the_nearest_of_all():
    distances = torch.tensor([[3.0, 1.0, 2.0], [0.5, 1.0, 2.0]])
    assert align(3, distances, [1, 2], [False, False, True]) == [1, 0]


@settings(max_examples=150, deadline=None)
@given(
    layers=st.sampled_from(DEPTHS),
    version=st.sampled_from([4, 5, 6]),
    seed=st.integers(0, 10_000),
    gone=st.floats(0, 1),
)
def test_versions_4_to_6_match_surviving_layers_in_order(layers, version, seed, gone):
    torch.manual_seed(seed)
    taught = teacher_layers(version, layers)
    alive = (torch.rand(layers) >= gone).tolist()
    distances = torch.rand(len(taught), layers)
    matched = align(version, distances, taught, alive)
    assert len(matched) == len(taught)
    assert matched == sorted(matched)
    if any(alive):
        assert all(alive[layer] for layer in matched)
    # top down by hand: the nearest surviving layer below the one matched before
    candidates = [i for i in range(layers) if alive[i]] or list(range(layers))
    limit = layers
    for row in reversed(range(len(taught))):
        below = [i for i in candidates if i < limit]
        limit = min(below, key=lambda i: distances[row, i]) if below else limit
        assert matched[row] == limit


def test_removed_layers_stay_out_whatever_the_order_of_the_losses():
    """The authors filter by the rank of the loss instead of by the layer."""
    distances = torch.tensor([[0.1, 5.0, 0.2, 9.0]] * 4)
    assert align(4, distances, [0, 1, 2, 3], [False, True, False, True]) == [1, 1, 1, 1]
    distances[3] = torch.tensor([0.1, 5.0, 0.2, 0.3])
    assert align(4, distances, [0, 1, 2, 3], [False, True, False, True]) == [1, 1, 1, 3]


# ---- the layer loss


def states(layers: int, width: int = 6, grad: bool = False) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, 5, width, requires_grad=grad) for _ in range(layers + 1))


def identity(width: int = 6) -> LayerMap:
    return LayerMap(None, width, width)


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_a_loss_that_trains_student_and_map(version, layers):
    student, teacher, layer_map = states(layers, grad=True), states(layers), identity()
    loss = layer_distillation_loss(student, teacher, layer_map, version=version, alive=[True] * layers)
    loss.backward()
    assert loss.shape == ()
    assert loss > 0
    assert layer_map.linear.weight.grad.abs().sum() > 0
    assert any(state.grad is not None and state.grad.abs().sum() > 0 for state in student[1:])
    assert student[0].grad is None, "the encoder's input is no layer"


@pytest.mark.parametrize("version", VERSIONS)
def test_no_surviving_layer(version):
    student, layer_map = states(4, grad=True), identity()
    loss = layer_distillation_loss(student, states(4), layer_map, version=version, alive=[False] * 4)
    loss.backward()
    assert loss.isfinite()
    assert (loss == 0) == (version == 2)


def test_a_student_equal_to_its_teacher_has_no_loss():
    teacher = states(4)
    for version in VERSIONS:
        assert layer_distillation_loss(teacher, teacher, identity(), version=version, alive=[True] * 4) == 0


def test_versions_2_and_4_by_hand():
    student, teacher = states(4), states(4)
    alive = [True, False, True, True]
    terms = [F.mse_loss(student[i], teacher[i]) for i in (1, 3, 4)]
    loss = layer_distillation_loss(student, teacher, identity(), version=2, alive=alive)
    assert loss.item() == pytest.approx(sum(terms).item(), rel=1e-5)
    distances = torch.tensor([[F.mse_loss(s, t) for s in student[1:]] for t in teacher[1:]])
    matched = align(4, distances, [0, 1, 2, 3], alive)
    terms = [F.mse_loss(student[s + 1], teacher[t + 1]) for t, s in enumerate(matched)]
    loss = layer_distillation_loss(student, teacher, identity(), version=4, alive=alive)
    assert loss.item() == pytest.approx(sum(terms).item(), rel=1e-5)


def test_positions_without_a_token_do_not_count():
    student, teacher = states(2), states(2)
    attended = torch.tensor([[True, True, True, False, False], [True, False, False, False, False]])
    noisy = tuple(torch.where(attended[..., None], state, 1e6) for state in student)
    for version in VERSIONS:
        losses = []
        for state in (student, noisy):
            torch.manual_seed(2)
            losses.append(
                layer_distillation_loss(
                    state, teacher, identity(), version=version, alive=[True, True], attended=attended
                )
            )
        assert torch.equal(*losses)
    by_hand = (student[1] - teacher[1])[attended].square().mean()
    assert mean_squared_error(student[1], teacher[1], attended).item() == pytest.approx(
        by_hand.item(), rel=1e-5
    )
    everywhere = torch.ones(2, 5, dtype=torch.bool)
    assert mean_squared_error(student[1], teacher[1], everywhere).item() == pytest.approx(
        F.mse_loss(student[1], teacher[1]).item(), rel=1e-5
    )


# ---- the layer map


def test_the_map_starts_as_the_identity():
    x = torch.randn(3, 4, 6)
    assert torch.equal(identity()(x), x)
    assert identity().linear.bias is None


def test_the_map_puts_kept_dimensions_where_they_were():
    layer_map = LayerMap([1, 4, 5], 3, 6)
    x = torch.randn(2, 3)
    mapped = layer_map(x)
    assert torch.equal(mapped[:, [1, 4, 5]], x)
    assert (mapped[:, [0, 2, 3]] == 0).all()
    assert layer_map.linear.weight.requires_grad


def test_a_narrower_teacher_is_refused():
    with pytest.raises(ValueError, match="exceeds the teacher's 4"):
        LayerMap(None, 6, 4)
    with pytest.raises(ValueError, match="hidden size 8 exceeds the teacher's 6"):
        LayerMap([0, 1, 7], 3, 6)


# ---- the logit loss


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_logit_loss_is_the_divergence(temperature):
    student, teacher = torch.randn(7, 3, requires_grad=True), torch.randn(7, 3)
    expected = (
        F.kl_div(
            F.log_softmax(student / temperature, -1),
            F.softmax(teacher / temperature, -1),
            reduction="batchmean",
        )
        * temperature**2
    )
    loss = logit_distillation_loss(student, teacher, temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    p, q = (F.softmax(x.detach() / temperature, -1) for x in (teacher, student))
    assert loss.item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item() * temperature**2, rel=1e-4)
    loss.backward()
    assert student.grad.abs().sum() > 0


def test_logit_loss_is_zero_at_the_teacher_and_ignores_a_common_shift():
    teacher = torch.randn(7, 3)
    assert logit_distillation_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert logit_distillation_loss(teacher + 5, teacher, 2.0).item() == pytest.approx(0, abs=1e-5)


def test_scores_are_compared_as_numbers():
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert logit_distillation_loss(student, teacher, 2.0).item() == pytest.approx(2.5)


# ---- states of an unmultiplexed teacher


def test_state_distillation_is_a_share_of_the_teachers_variance():
    teacher = torch.randn(4, 6, 8) * 3 + 5
    counted = (torch.arange(6) < torch.tensor([[6], [4], [5], [1]])).long()
    assert state_distillation_loss(teacher, teacher, counted) == 0
    mean = teacher[counted.bool()].mean(0)
    constant = state_distillation_loss(mean.expand_as(teacher), teacher, counted)
    torch.testing.assert_close(constant, torch.tensor(1.0))
    noise = torch.where(counted.bool().unsqueeze(-1), 0.0, 100.0)
    assert state_distillation_loss(teacher + noise, teacher, counted) == 0
