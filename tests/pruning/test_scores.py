"""`ScoreGates`: what the predictions don't need goes first, on schedule and to the sparsity that was asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prumux import L0Gates, PrumuxConfig, PrumuxForSequenceClassification, compact
from prumux.pruning.accounting import Structure, ffn_parameters, model_size
from prumux.pruning.scores import LOOK_EVERY, ScoreGates, UniformGates, fisher_scores, start_from
from prumux.pruning.snapping import snap

CONFIG = PrumuxConfig(
    vocab_size=20, hidden_size=32, num_hidden_layers=3, num_attention_heads=8, intermediate_size=96,
    max_position_embeddings=16, num_instances=2,
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), target=st.sampled_from([0.3, 0.6, 0.9]))
def test_any_scores_lead_to_the_target(seed, target):
    torch.manual_seed(seed)
    gates = ScoreGates(CONFIG)
    gates.add(gates.sizes, [torch.randn(size).exp() for size in gates.sizes.values()])
    masks = snap(gates, target, 0.02)
    assert all(set(value.unique().tolist()) <= {0.0, 1.0} for _, value in masks.items())
    model = compact(PrumuxForSequenceClassification(CONFIG), masks)
    assert model_size(model).sparsity == pytest.approx(target, abs=0.02)


def test_what_the_predictions_do_not_need_goes_first(tiny, rows):
    """Half of the FFN dimensions write nothing: they are the half that is removed."""
    model = PrumuxForSequenceClassification(tiny(num_instances=2))
    useless = torch.arange(24) % 2 == 0
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight[:, useless] = 0
    ids, mask = rows(8)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.randint(2, (8,))}
    gates = ScoreGates(model.config, pruning_type="structured_mlp")
    fisher_scores(gates, model, [batch] * 3)
    half = 24 * ffn_parameters(16, 1, 0) / Structure.dense(model.config).parameters
    removed = snap(gates, half, 0.02)
    for layer in range(2):
        assert set((removed.intermediate[layer] == 0).nonzero().flatten().tolist()) <= set(
            useless.nonzero().flatten().tolist()
        )


def test_only_the_observed_loss_counts(tiny, rows):
    model = PrumuxForSequenceClassification(tiny(num_instances=2))
    ids, mask = rows(8)
    gates = ScoreGates(model.config)
    masks = gates.sample()
    output = model(ids, mask, labels=torch.randint(2, (8,)), masks=masks, output_hidden_states=True)
    expected = torch.autograd.grad(output.task_loss, masks.hidden, retain_graph=True)[0].abs()
    gates.observe(output.task_loss)
    (output.task_loss + 100 * output.hidden_states[-1].square().sum()).backward()
    assert torch.allclose(gates.score("hidden"), expected)


def test_the_structure_follows_the_target_and_units_come_back():
    gates = ScoreGates(CONFIG, pruning_type="structured_heads+structured_mlp")
    scores = [torch.rand(size) for size in gates.sizes.values()]
    gates.add(gates.sizes, scores)
    assert gates.penalty(0.5)[1] == pytest.approx(0.5, abs=0.05)
    first = gates.masks()
    for _ in range(200):
        gates.add(gates.sizes, [1 - score for score in scores])
    gates.penalty(0.5)
    assert ((first.intermediate == 0) & (gates.masks().intermediate == 1)).any()
    assert [gates.schedule(share) for share in (0, 0.5, 1)] == [0, 0.875, 1]
    gates.steps += 1  # between two looks nothing moves, and nothing is differentiated
    assert LOOK_EVERY > 1
    assert not gates.sample().head.requires_grad


def test_a_block_without_units_keeps_its_scores():
    gates = ScoreGates(CONFIG, pruning_type="structured_heads")
    ones = torch.ones(gates.sizes["head"])
    gates.add(["head"], [ones])
    gates.get_buffer("mask_head")[1] = 0
    for _ in range(100):
        gates.add(["head"], [0 * ones])
    assert (gates.score("head")[1] == 1).all()
    assert (gates.score("head")[0] < 0.2).all()


@pytest.mark.parametrize("pruning_type", ["structured_heads", "structured_heads+structured_mlp"])
def test_everything_may_go(tiny, rows, pruning_type):
    """No unit has a gradient then, and the training goes on."""
    model = PrumuxForSequenceClassification(tiny(num_instances=2))
    gates = ScoreGates(model.config, pruning_type=pruning_type)
    for family in gates.sizes:
        gates.get_buffer(f"mask_{family}").zero_()
    ids, mask = rows(8)
    loss = model(ids, mask, labels=torch.randint(2, (8,)), masks=gates.sample()).task_loss
    gates.observe(loss)
    loss.backward()


def test_the_largest_narrow_model_is_found(tiny):
    gates = UniformGates(tiny())
    target = gates.narrow(2)
    gates.add(gates.sizes, [torch.rand(size) for size in gates.sizes.values()])
    gates.penalty(target)
    left = Structure.of(gates.config, gates.masks())
    config = gates.config
    assert (left.hidden, left.heads[0], left.intermediate[0]) == (
        config.hidden_size // 2, config.num_attention_heads // 2, config.intermediate_size // 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="5 copies don't fit side by side, the encoder has 4 heads"):
        gates.narrow(5)


def test_gates_start_near_the_structure_that_the_scores_keep():
    torch.manual_seed(0)
    scores = ScoreGates(CONFIG)
    scores.add(scores.sizes, [torch.randn(size).exp() for size in scores.sizes.values()])
    wanted = snap(scores, 0.6, 0.02)
    gates = L0Gates(CONFIG)
    start_from(gates, scores, 0.6)
    started = snap(gates, 0.6, 0.02)
    same = ((wanted.intermediate != 0) == (started.intermediate != 0)).float().mean()
    assert same > 0.9


def test_gates_start_as_far_apart_in_a_model_that_lacks_units():
    """What pads the layers that have fewer units is none and has no say."""
    gone = PrumuxConfig(**CONFIG.to_diff_dict() | {"kept_heads": [8, 2, 2], "kept_intermediate": [96, 12, 0]})
    spreads = []
    for config in (CONFIG, gone):
        torch.manual_seed(0)
        scores, gates = ScoreGates(config), L0Gates(config)
        there = [scores.present(family) for family in scores.sizes]
        scores.add(scores.sizes, [torch.randn(mask.shape).exp() * mask for mask in there])
        start_from(gates, scores, 0.97)
        spreads.append(gates.log_alpha["intermediate"][gates.present("intermediate")].std().item())
    assert int(gates.present("head").sum()) == 12
    assert spreads[1] == pytest.approx(spreads[0], rel=0.2)


def test_a_pruning_type_without_scored_units():
    with pytest.raises(ValueError, match="names none of: head, intermediate, hidden"):
        ScoreGates(CONFIG, pruning_type="layer")
