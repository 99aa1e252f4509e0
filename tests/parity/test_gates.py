"""Gates, Lagrangian and sizes against numbers recorded from the authors' mask module."""

from __future__ import annotations

import pytest
import torch

from prumux import L0Gates, Masks, PrumuxConfig
from prumux.pruning.accounting import Structure
from prumux.pruning.l0 import nonzero_probability, soft_value
from prumux.training.schedule import SparsitySchedule
from tests.parity.authors import expected_size, prunable_size
from tests.parity.recorded import masks_of, meta, names, tensors

CASES = [name for name in names("e_l0_*") if "scalar" not in name]


def gates_of(case: str) -> L0Gates:
    golden, facts = tensors(case), meta(case)
    layers, intermediate = golden["loga.intermediate"].shape
    heads = facts["sizes"]["head"]
    hidden = facts["parameters_per_dim"]["head_layer"]  # 4 D^2 + 4 D
    hidden = round((-4 + (16 + 16 * hidden) ** 0.5) / 8)
    config = PrumuxConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
    )
    gates = L0Gates(config, pruning_type=facts["pruning_type"])
    with torch.no_grad():
        for family, value in gates.log_alpha.items():
            value.copy_(golden[f"loga.{family}"])
        gates.lambda_1.fill_(facts["lambda_1"])
        gates.lambda_2.fill_(facts["lambda_2"])
    return gates


def their_sparsity(gates: L0Gates) -> torch.Tensor:
    config = gates.config
    size = prunable_size(config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    return 1 - expected_size(gates) / size


@pytest.mark.parametrize("case", CASES)
def test_probabilities(case):
    golden = tensors(case)
    torch.testing.assert_close(
        1 - nonzero_probability(golden["cdf_grid_x"]), golden["cdf_qz0"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("case", CASES)
def test_evaluation_masks(case):
    golden = tensors(case)
    recorded = masks_of(golden, "z_det.")
    for family, value in gates_of(case).deterministic().items():
        torch.testing.assert_close(value, getattr(recorded, family), rtol=0, atol=1e-6)


def test_scalar_gates():
    """Coarse gates: 0 when dropping is likelier than not, else the soft value."""
    golden = tensors("e_l0_scalar_layer_z")
    probability = nonzero_probability(golden["loga"])
    torch.testing.assert_close(probability, golden["expected_nonzero"], rtol=0, atol=1e-6)
    layers = len(golden["loga"])
    gates = L0Gates(PrumuxConfig(num_hidden_layers=layers), pruning_type="mlp")
    with torch.no_grad():
        gates.log_alpha["mlp"].copy_(golden["loga"])
    torch.testing.assert_close(gates.deterministic().mlp, golden["z"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_samples_for_recorded_noise(case):
    golden = tensors(case)
    if "eps.head" not in golden:
        pytest.skip("no noise was recorded for this case")
    noise = Masks(**{name[4:]: value for name, value in golden.items() if name.startswith("eps.")})
    recorded = masks_of(golden, "z_train.")
    for family, value in gates_of(case).sample(noise).items():
        torch.testing.assert_close(value, getattr(recorded, family), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_expected_size(case):
    """Theirs is reproduced for this check only; ours counts the parameters that a pruned model has."""
    gates, facts = gates_of(case), meta(case)
    config = gates.config
    theirs = prunable_size(config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    assert theirs == facts["prunable_model_size"]
    assert expected_size(gates).item() == pytest.approx(facts["expected_size"], rel=1e-5)
    per_layer = 4 * config.hidden_size * (config.hidden_size + 1)
    per_layer += config.intermediate_size * (2 * config.hidden_size + 1) + config.hidden_size
    assert Structure.dense(config).parameters == config.num_hidden_layers * per_layer
    # they count 4 D biases where there are F, and none in what is left: an expected sparsity that is a little high
    assert gates.expected_sparsity().item() == pytest.approx(their_sparsity(gates).item(), abs=0.012)


@pytest.mark.parametrize("case", CASES)
def test_lagrangian_and_its_gradient(case, monkeypatch):
    gates, facts, golden = gates_of(case), meta(case), tensors(case)
    monkeypatch.setattr(gates, "expected_sparsity", lambda: their_sparsity(gates))
    for entry in facts["lagrangian"]:
        loss, expected = gates.penalty(entry["target_sparsity"])
        assert loss.item() == pytest.approx(entry["loss"], rel=1e-4, abs=1e-6)
        assert expected.item() == pytest.approx(entry["expected_sparsity"], rel=1e-5)
    if "grad_step50.lambda_1" not in golden:
        return
    target = next(e["target_sparsity"] for e in facts["lagrangian"] if e["pruned_steps"] == 50)
    gates.penalty(target)[0].backward()
    recorded = {
        "head": "head_loga", "intermediate": "int_loga", "hidden": "hidden_loga", "mlp": "intlayer_loga",
        "head_layer": "headlayer_loga",
    }  # fmt: skip
    for family, value in gates.log_alpha.items():
        assert value.grad is not None
        torch.testing.assert_close(
            value.grad, golden[f"grad_step50.{recorded[family]}"], rtol=1e-4, atol=1e-7
        )
    for name, multiplier in (("lambda_1", gates.lambda_1), ("lambda_2", gates.lambda_2)):
        torch.testing.assert_close(multiplier.grad, golden[f"grad_step50.{name}"], rtol=1e-4, atol=1e-7)


def test_soft_values_sharpen_by_their_factor():
    assert soft_value(torch.tensor(2.0)).item() == pytest.approx(torch.sigmoid(torch.tensor(2.4)).item())


@pytest.mark.parametrize("case", CASES)
def test_the_target_rises_over_the_warm_up(case):
    facts = meta(case)
    for entry in facts.get("lagrangian", []):
        schedule = SparsitySchedule((facts["target_sparsity"],), 10**6, 0, round(facts["lagrangian_warmup"]))
        target = schedule.target(entry["pruned_steps"], 0, lambda share: share)  # an epoch of one step
        assert target == pytest.approx(entry["target_sparsity"], abs=1e-9)
