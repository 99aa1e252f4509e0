"""The cost model counts what a model has and does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prumux
from prumux import PrumuxConfig, PrumuxForSequenceClassification, UserError
from prumux.inference.cost import cost
from prumux.models.demultiplexers import DEMULTIPLEXERS
from prumux.models.multiplexers import MULTIPLEXERS
from prumux.pruning.accounting import model_size


@settings(max_examples=25, deadline=None)
@given(
    instances=st.integers(1, 4),
    demuxing=st.sampled_from(sorted(DEMULTIPLEXERS)),
    muxing=st.sampled_from(sorted(MULTIPLEXERS)),
    heads=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    inner=st.lists(st.integers(0, 9), min_size=2, max_size=2),
    width=st.integers(5, 12),
)
def test_parameters_are_those_of_the_model(instances, demuxing, muxing, heads, inner, width):
    config = PrumuxConfig(
        vocab_size=30, hidden_size=width, dense_hidden_size=12, head_dim=4, num_attention_heads=3, intermediate_size=9,
        num_hidden_layers=2, max_position_embeddings=20, num_instances=instances, demuxing_variant=demuxing,
        muxing_variant=muxing, kept_heads=heads, kept_intermediate=inner, num_labels=3,
    )  # fmt: skip
    model = PrumuxForSequenceClassification(config)
    assert sum(cost(model).parameters.values()) == model_size(model).total


def test_operations_of_dense_bert():
    """A multiply-add per weight and token, but for what is only done at [CLS] in the last layer."""
    config = PrumuxConfig.from_pretrained("configs/models/bert_base.json", num_labels=2)
    found = cost(config, length=128)
    layer = 2 * (4 * 768 * 768 + 2 * 768 * 3072) * 128 + 4 * 128 * 128 * 768
    assert found.matrix_operations == pytest.approx(11 * layer + layer / 6, rel=0.02)
    assert found.total > found.matrix_operations


def test_a_structure_file_is_a_model():
    import json
    from pathlib import Path

    file = Path("configs/structures/bert_base_s0.95.json")
    assert cost(json.loads(file.read_text()), 10) == cost(PrumuxConfig.from_pretrained(file), 10)


def test_cost_falls_with_instances_and_sparsity():
    dense = PrumuxConfig.from_pretrained("configs/models/bert_base.json")
    pruned = PrumuxConfig.from_pretrained("configs/structures/bert_base_s0.95.json")
    per_example = [cost(dense, n).total for n in (1, 2, 5, 10)]
    assert per_example == sorted(per_example, reverse=True)
    assert cost(pruned, 10).total < cost(dense, 10).total / 10
    assert cost(pruned, 10).operations["demultiplexer"] == pytest.approx(
        cost(dense, 10).operations["demultiplexer"], rel=0.1
    )


def test_the_roofline_is_the_larger_of_arithmetic_and_memory():
    found = cost(PrumuxConfig.from_pretrained("configs/models/toy.json"), length=16)
    fast = found.seconds(1e30, 1e30, 1.0)
    assert fast == found.bytes
    vector = found.total - found.matrix_operations
    assert found.seconds(2.0, 4.0, 1e30) == pytest.approx(found.matrix_operations / 2 + vector / 4)


def test_what_is_read_decides():
    """Without attention only [CLS] is computed; with it in the last layer only, everything."""
    common = {
        "hidden_size": 16,
        "head_dim": 4,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 30,
    }
    common |= {"intermediate_size": 8, "kept_intermediate": [8, 8]}
    none = PrumuxConfig(**common, kept_heads=[0, 0])
    first = PrumuxConfig(**common, kept_heads=[4, 0])
    last = PrumuxConfig(**common, kept_heads=[0, 4])
    assert cost(none, length=50).operations["ffn"] == pytest.approx(cost(none, length=5).operations["ffn"])
    assert cost(first, length=50).operations["ffn"] == pytest.approx(cost(none, length=50).operations["ffn"])
    assert cost(last, length=50).operations["ffn"] > 20 * cost(first, length=50).operations["ffn"]
    assert torch.isfinite(torch.tensor(cost(none).total))


def test_by_its_short_name_and_with_wrong_arguments(tiny):
    config = tiny(num_instances=2)
    assert prumux.inference.cost(config).total == cost(config).total
    for arguments in ((config, 0), (config, 2, 0), ("a path",), (torch.nn.Linear(2, 2),)):
        with pytest.raises(UserError, match=r"give"):
            cost(*arguments)
