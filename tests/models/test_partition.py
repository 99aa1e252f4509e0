"""`separate_instances`: each instance is read by heads and FFN dimensions of its own."""

from __future__ import annotations

import pytest
import torch

from prumux import PrumuxForSequenceClassification
from prumux.models.partition import separate_instances


@pytest.mark.parametrize("instances", [2, 3, 4])
def test_no_head_and_no_ffn_dimension_mixes_instances(tiny, instances):
    config = tiny(num_instances=instances, muxing_variant="binary_hadamard", binary_hadamard_epsilon=0.0)
    model = PrumuxForSequenceClassification(config).bert
    separate_instances(model)
    stream = model.multiplexer.vectors.argmax(0)
    x = torch.randn(3, 5, 16)
    for instance in range(instances):
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


@pytest.mark.parametrize("changes", [
    {"num_instances": 2},
    {"num_instances": 2, "muxing_variant": "binary_hadamard", "binary_hadamard_epsilon": 0.5},
    {"num_instances": 1},
])  # fmt: skip
def test_vectors_that_share_dimensions(tiny, changes):
    model = PrumuxForSequenceClassification(tiny(**changes)).bert
    with pytest.raises(ValueError, match="--muxing_variant binary_hadamard --binary_hadamard_epsilon 0"):
        separate_instances(model)
