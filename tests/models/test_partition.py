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


def test_every_share_has_the_most_important_units(tiny):
    config = tiny(num_instances=2, muxing_variant="binary_hadamard", binary_hadamard_epsilon=0.0)
    model = PrumuxForSequenceClassification(config).bert
    before = {name: value.clone() for name, value in model.state_dict().items()}
    importance = {"hidden": torch.rand(16), "head": torch.rand(2, 4), "intermediate": torch.rand(2, 24)}
    separate_instances(model, importance)
    best = importance["hidden"].argsort(descending=True)[:8]
    words = model.embeddings.word_embeddings.weight
    old = before["embeddings.word_embeddings.weight"][:, best]
    assert torch.equal(words[:, :8], old)
    assert torch.equal(words[:, 8:], old)
    units = importance["intermediate"][1].argsort(descending=True)[:12]
    written = model.encoder.layer[1].output.dense.weight
    kept = before["encoder.layer.1.output.dense.weight"][best][:, units]
    assert torch.equal(written[:8, :12], kept)
    assert torch.equal(written[8:, 12:], kept)
    assert not written[:8, 12:].any()
    heads = importance["head"][0].argsort(descending=True)[:2]
    query = before["encoder.layer.0.attention.self.query.weight"].view(4, 4, 16)[heads].flatten(0, 1)[:, best]
    assert torch.equal(model.encoder.layer[0].attention.self.query.weight[:8, :8], query)
