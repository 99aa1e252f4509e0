"""`Latency`: a structure's time from a table, and pruning to a speedup by it."""

from __future__ import annotations

import json

import pytest
import torch

from prumux import L0Gates, PrumuxConfig
from prumux.errors import UserError
from prumux.pruning.accounting import Structure
from prumux.pruning.latency import Latency, measure
from prumux.pruning.snapping import snap

CONFIG = PrumuxConfig(
    vocab_size=20, hidden_size=32, num_hidden_layers=3, num_attention_heads=8, intermediate_size=96,
    max_position_embeddings=16, num_instances=2,
)  # fmt: skip
WIDTHS, HEADS, INNER = [8, 16, 32], [1, 2, 4, 8], [3, 24, 96]


def table(width_cost=1.0, read=1.0) -> Latency:
    """Bilinear times with a constant part, as a real machine has: interpolation must give them back exactly."""
    attention = [[5 + width_cost * w * h for h in HEADS] for w in WIDTHS]
    ffn = [[3 + width_cost * w * f / 4 for f in INNER] for w in WIDTHS]
    return Latency(CONFIG, WIDTHS, HEADS, INNER, attention, ffn, read)


def test_between_the_measured_sizes():
    cost = table()
    assert float(cost.attention(12, 3)) == pytest.approx(5 + 36)
    assert float(cost.ffn(32, 60)) == pytest.approx(3 + 32 * 15)
    assert float(cost.attention(4, 1)) == pytest.approx(5 + 8)  # smaller than measured: the edge
    structure = Structure(16, (2, 0, 8), (24, 96, 0), CONFIG.head_dim)
    assert cost.total(structure) == pytest.approx((5 + 32) + (5 + 128) + (3 + 96) + (3 + 384))
    assert cost.removed() == pytest.approx(0)


def test_after_the_last_attention_block_only_what_is_read_costs():
    cost = table(read=0.25)
    structure = Structure(16, (2, 8, 0), (24, 96, 96), CONFIG.head_dim)
    attention = (5 + 32) + (0.5 + 0.5 * 0.25) * (5 + 128)
    assert cost.total(structure) == pytest.approx(attention + (3 + 96) + 0.25 * 2 * (3 + 384))


@pytest.mark.parametrize("read", [1.0, 0.1])
def test_the_expected_cost_of_settled_gates_is_the_structures(read):
    gates = L0Gates(CONFIG, cost=table(read=read))
    kept = {"head": [[1] * 8, [1, 1] + [0] * 6, [0] * 8], "head_layer": [1, 1, 1], "mlp": [1, 0, 1],
            "intermediate": [[1] * 24 + [0] * 72, [1] * 96, [1] * 96], "hidden": [1] * 16 + [0] * 16}  # fmt: skip
    with torch.no_grad():
        for family, value in gates.log_alpha.items():
            value.copy_((torch.tensor(kept[family]) - 0.5) * 100)
    structure = Structure(16, (8, 2, 0), (24, 0, 96), CONFIG.head_dim)
    # the table starts at one head and three dimensions: a block without any costs as much as the smallest
    gates.log_alpha["head_layer"].data[2] = -50
    assert gates.expected_cost().item() == pytest.approx(gates.cost.total(structure), rel=1e-3)


def test_a_noisy_table_is_made_monotone():
    cost = Latency(CONFIG, [8, 32], [1, 8], [3, 96], [[2.0, 5.0], [1.0, 9.0]], [[1.0, 1.0], [1.0, 0.5]])
    assert float(cost.attention(32, 1)) == 2.0
    assert float(cost.ffn(32, 96)) == 1.0


@pytest.mark.parametrize("speedup", [2, 5, 20])
def test_gates_are_driven_and_snapped_to_a_speedup(speedup):
    torch.manual_seed(0)
    cost = table()
    gates = L0Gates(CONFIG, cost=cost)
    with torch.no_grad():
        for value in gates.log_alpha.values():
            value.normal_()
    penalty, expected = gates.penalty(0.9)
    assert 0 < expected < 1
    assert torch.autograd.grad(expected, gates.log_alpha["hidden"])[0].abs().sum().item() > 0
    masks = snap(gates, 1 - 1 / speedup, 0.01)
    assert cost.dense / cost.total(Structure.of(CONFIG, masks)) == pytest.approx(speedup, rel=0.25)
    assert penalty == 0  # the multipliers start at 0


def test_a_narrower_model_is_compared_with_the_unpruned_encoder():
    fields = CONFIG.to_dict() | {
        "hidden_size": CONFIG.hidden_size // 4,
        "dense_hidden_size": CONFIG.hidden_size,
    }
    narrow = PrumuxConfig(**fields | {"kept_hidden": list(range(CONFIG.hidden_size // 4))})
    made = measure(narrow, length=8, device=torch.device("cpu"), dtype=torch.float32)
    assert made["widths"][-1] == CONFIG.hidden_size


def test_measured_and_read(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(measure(CONFIG, length=8, device=torch.device("cpu"), dtype=torch.float32)))
    assert Latency.read(CONFIG, path).dense > 0
    made = {"length": 8, "device": torch.device("cpu"), "dtype": torch.float32}
    assert Latency.is_of(path, CONFIG, **made)
    assert not Latency.is_of(path, CONFIG, **made | {"length": 16})
    assert not Latency.is_of(path, CONFIG, **made | {"dtype": torch.bfloat16})
    assert not Latency.is_of(tmp_path / "none.json", CONFIG, **made)
    wider = CONFIG.to_dict() | {"hidden_size": 2 * CONFIG.hidden_size, "dense_hidden_size": None}
    assert not Latency.is_of(path, PrumuxConfig(**wider), **made)
    path.write_text(json.dumps({"widths": [1, 2]}))
    with pytest.raises(UserError, match=r"holds no latency table .*delete it"):
        Latency.read(CONFIG, path)
