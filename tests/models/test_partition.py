"""`put_side_by_side`: each instance is read by a narrow copy of its own."""

from __future__ import annotations

import pytest
import torch

from prumux import Masks, PrumuxForSequenceClassification, compact
from prumux.models.partition import put_side_by_side
from prumux.pruning.scores import UniformGates
from prumux.pruning.snapping import snap

SEPARATE = {"muxing_variant": "binary_hadamard", "binary_hadamard_epsilon": 0.0}


def narrow_model(tiny, copies):
    """A dense model, cut to the widest of which ``copies`` fit side by side."""
    plain = PrumuxForSequenceClassification(tiny())
    gates = UniformGates(plain.config)
    gates.add(gates.sizes, [torch.rand(size) for size in gates.sizes.values()])
    return compact(plain, snap(gates, gates.narrow(copies), 0.01))


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_the_narrow_model_is_the_widest_that_fits(tiny, copies):
    config = narrow_model(tiny, copies).config
    assert config.hidden_size == {2: 8, 3: 4, 4: 4}[copies]  # 16 in three: 6, 6 and 4
    assert config.kept_heads == [{2: 2, 3: 1, 4: 1}[copies]] * 2
    assert config.kept_intermediate == [{2: 12, 3: 6, 4: 6}[copies]] * 2


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_no_head_and_no_ffn_dimension_mixes_instances(tiny, copies):
    model = PrumuxForSequenceClassification(tiny(num_instances=copies, **SEPARATE)).bert
    put_side_by_side(model, narrow_model(tiny, copies).bert)
    stream = model.multiplexer.vectors.argmax(0)
    x = torch.randn(3, 5, 16)
    for instance in range(copies):
        changed = torch.where(stream == instance, torch.randn(3, 5, 16), x)
        for layer in model.encoder.layer:
            context = [
                layer.attention.output.dense(layer.attention.self(v, None, None)) for v in (x, changed)
            ]
            inner = [layer.output.dense(layer.intermediate(v, None)) for v in (x, changed)]
            for before, after in (context, inner):
                moved = (before - after).abs().amax((0, 1)) > 1e-6  # (D,)
                assert not moved[stream != instance].any()
                assert moved[stream == instance].any()


def test_equal_inputs_give_the_narrow_models_states(tiny, rows):
    """With the same row in every slot the LayerNorms' statistics agree, so each share holds what the copy computes."""
    narrow = narrow_model(tiny, 2).bert.eval()
    model = PrumuxForSequenceClassification(tiny(num_instances=2, embed_twice=False, **SEPARATE)).bert.eval()
    with torch.no_grad():
        put_side_by_side(model, narrow)
        model.multiplexer.vectors *= 2  # the mixture is a mean
    ids, mask = rows(3)
    expected = narrow(ids, mask).hidden_states
    mixed = model(ids.repeat_interleave(2, 0), mask.repeat_interleave(2, 0)).hidden_states
    for mine, its in zip(mixed, expected, strict=True):
        real = mask.bool()
        assert torch.allclose(mine[..., :8][real], its[real], atol=1e-5)
        assert torch.allclose(mine[..., 8:][real], its[real], atol=1e-5)


@pytest.mark.parametrize("changes", [
    {"num_instances": 2},
    {"num_instances": 2, "muxing_variant": "binary_hadamard", "binary_hadamard_epsilon": 0.5},
])  # fmt: skip
def test_vectors_that_share_dimensions(tiny, changes):
    model = PrumuxForSequenceClassification(tiny(**changes)).bert
    with pytest.raises(ValueError, match="--muxing_variant binary_hadamard --binary_hadamard_epsilon 0"):
        put_side_by_side(model, narrow_model(tiny, 2).bert)


def test_copies_that_do_not_fit(tiny):
    with pytest.raises(ValueError, match="give --num_instances 2 or more"):
        put_side_by_side(PrumuxForSequenceClassification(tiny()).bert, narrow_model(tiny, 2).bert)
    few = Masks(hidden=torch.tensor([1.0] * 2 + [0.0] * 14))
    many = PrumuxForSequenceClassification(tiny(num_instances=8, **SEPARATE)).bert
    with pytest.raises(ValueError, match=r"0 is the most of 8 side by side; give a smaller --num_instances"):
        put_side_by_side(many, compact(PrumuxForSequenceClassification(tiny()), few).bert)
    model = PrumuxForSequenceClassification(tiny(num_instances=4, **SEPARATE)).bert
    with pytest.raises(
        ValueError, match=r"copies of hidden size 8 don't fit: 4 is the most of 4 .* --narrow_for 4"
    ):
        put_side_by_side(model, narrow_model(tiny, 2).bert)
    gone = compact(
        PrumuxForSequenceClassification(tiny()),
        Masks(head_layer=torch.tensor([1.0, 0.0]), hidden=torch.tensor([1.0] * 4 + [0.0] * 12)),
    )
    with pytest.raises(ValueError, match=r"don't fit|no attention block left"):
        put_side_by_side(model, gone.bert)
    with pytest.raises(ValueError, match="as many layers"):
        put_side_by_side(model, PrumuxForSequenceClassification(tiny(num_hidden_layers=1)).bert)
