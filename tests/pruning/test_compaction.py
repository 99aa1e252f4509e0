"""The invariant the project stands on: the masked model and the compacted model are one function."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prumux import (
    Masks,
    PrumuxConfig,
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxForTokenClassification,
    compact,
)
from prumux.models.demultiplexers import DEMULTIPLEXERS
from prumux.models.heads import PrumuxClassifier
from prumux.models.multiplexers import MULTIPLEXERS
from prumux.pruning.accounting import Structure, model_size

LAYERS, HEADS, FFN, HIDDEN = 3, 4, 10, 16


def model_of(
    num_instances: int,
    muxing: str = "gaussian_hadamard",
    demuxing: str = "index_pos",
    kind: type[PrumuxClassifier] = PrumuxForSequenceClassification,
    **more: object,
):
    config = PrumuxConfig(
        vocab_size=40,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
        max_position_embeddings=24,
        num_instances=num_instances,
        muxing_variant=muxing,
        demuxing_variant=demuxing,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        num_labels=3,
        **more,
    )
    model = kind(config).eval()
    with torch.no_grad():  # LayerNorms and biases that would show wrong handling
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + ("LayerNorm.weight" in name))
    return model


def difference(model, masks: Masks, num_instances: int) -> float:
    ids = torch.randint(1, 40, (2 * num_instances, 6))
    mask = torch.ones_like(ids)
    mask[0, 3:] = mask[-1, 4:] = 0
    with torch.no_grad():
        masked = model(ids, mask, masks=masks).logits
        small = compact(model, masks)
        return (small(ids, mask).logits - masked).abs().max().item()


@st.composite
def mask_values(draw, shape: tuple[int, ...], at_least_one: bool = False):
    """None, or a tensor of zeros, ones and soft values."""
    if draw(st.booleans()) and draw(st.booleans()):
        return None
    count = int(torch.tensor(shape).prod())
    values = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0, 0.25, 0.7]), min_size=count, max_size=count))
    if at_least_one and not any(values):
        values[draw(st.integers(0, count - 1))] = 1.0
    return torch.tensor(values).view(shape)


@st.composite
def any_masks(draw):
    return Masks(
        head=draw(mask_values((LAYERS, HEADS))),
        head_layer=draw(mask_values((LAYERS,))),
        intermediate=draw(mask_values((LAYERS, FFN))),
        mlp=draw(mask_values((LAYERS,))),
        hidden=draw(mask_values((HIDDEN,), at_least_one=True)),
    )


@settings(max_examples=60, deadline=None)
@given(
    masks=any_masks(),
    num_instances=st.sampled_from([1, 2, 5]),
    muxing=st.sampled_from(list(MULTIPLEXERS)),
    demuxing=st.sampled_from(list(DEMULTIPLEXERS)),
    seed=st.integers(0, 1000),
)
def test_masked_equals_compacted(masks, num_instances, muxing, demuxing, seed):
    torch.manual_seed(seed)
    assert difference(model_of(num_instances, muxing, demuxing), masks, num_instances) <= 1e-5


@settings(max_examples=30, deadline=None)
@given(
    masks=any_masks(),
    num_instances=st.sampled_from([1, 2]),
    transform=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_of_tokens_too(masks, num_instances, transform, seed):
    torch.manual_seed(seed)
    model = model_of(num_instances, kind=PrumuxForTokenClassification, classifier_transform=transform)
    assert difference(model, masks, num_instances) <= 1e-5


ZERO, ONE = torch.zeros, torch.ones
DEGENERATE = {
    "all heads gone, block mask 1": Masks(head=ZERO(LAYERS, HEADS), head_layer=ONE(LAYERS)),
    "all FFN dims gone, block mask 1": Masks(intermediate=ZERO(LAYERS, FFN), mlp=ONE(LAYERS)),
    "one whole layer gone": Masks(head_layer=torch.tensor([1.0, 0, 1]), mlp=torch.tensor([1.0, 0, 1])),
    "every layer gone": Masks(head_layer=ZERO(LAYERS), mlp=ZERO(LAYERS)),
    "one hidden dimension left": Masks(hidden=torch.eye(HIDDEN)[5]),
    "everything soft": Masks(
        head=ONE(LAYERS, HEADS) * 0.3,
        head_layer=ONE(LAYERS) * 0.6,
        intermediate=ONE(LAYERS, FFN) * 0.4,
        mlp=ONE(LAYERS) * 0.8,
        hidden=torch.linspace(0.2, 1, HIDDEN),
    ),
    "nothing masked": Masks(),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("num_instances", [1, 2, 5])
@pytest.mark.parametrize("demuxing", DEMULTIPLEXERS)
def test_degenerate_masks(name, num_instances, demuxing):
    assert difference(model_of(num_instances, demuxing=demuxing), DEGENERATE[name], num_instances) <= 1e-5


@pytest.mark.parametrize("embed_twice", [True, False])
@pytest.mark.parametrize("attend_padding", [True, False])
@pytest.mark.parametrize("learn_muxing", [True, False])
def test_compatibility_settings(embed_twice, attend_padding, learn_muxing):
    model = model_of(2, embed_twice=embed_twice, attend_padding=attend_padding, learn_muxing=learn_muxing)
    masks = Masks(
        hidden=(torch.arange(HIDDEN) % 3 > 0).float(), head=(torch.rand(LAYERS, HEADS) > 0.4).float()
    )
    assert difference(model, masks, 2) <= 1e-5
    assert compact(model, masks).bert.multiplexer.vectors.requires_grad == learn_muxing


def test_no_hidden_dimension_left_is_refused():
    with pytest.raises(ValueError, match="keep at least one"):
        compact(model_of(2), Masks(hidden=ZERO(HIDDEN)))
    with pytest.raises(ValueError, match=r"masks.head has shape \(2, 4\), this encoder needs \(3, 4\)"):
        compact(model_of(2), Masks(head=ONE(2, HEADS)))


def test_compacting_again_continues_where_it_was():
    model = model_of(2)
    first = Masks(
        head=torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
        intermediate=(torch.arange(LAYERS * FFN) % 3 > 0).float().view(LAYERS, FFN),
        hidden=(torch.arange(HIDDEN) % 4 > 0).float(),
    )
    small = compact(model, first)
    config = small.config
    assert (config.hidden_size, config.kept_heads, config.kept_intermediate) == (12, [2, 0, 4], [6, 7, 7])
    assert config.kept_hidden == [i for i in range(HIDDEN) if i % 4]
    again = Masks(
        head=torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]), hidden=torch.eye(12)[:6].sum(0)
    )
    assert difference(small, again, 2) <= 1e-5
    smaller = compact(small, again)
    assert smaller.config.kept_heads == [1, 0, 2]
    assert smaller.config.kept_hidden == config.kept_hidden[:6]


def test_a_masked_language_model_compacts():
    torch.manual_seed(1)
    for instances in (1, 2):
        config = model_of(instances).config
        model = PrumuxForMaskedLM(config).eval()
        masks = Masks(hidden=(torch.arange(HIDDEN) % 2).float() * 0.8, mlp=torch.tensor([1.0, 0, 0.5]))
        ids = torch.randint(1, 40, (2 * instances, 6))
        with torch.no_grad():
            assert torch.allclose(
                compact(model, masks)(ids).logits, model(ids, masks=masks).logits, atol=1e-5
            )


def test_a_pruned_folder_is_small_and_loads_in_a_fresh_process(tmp_path):
    model = model_of(2)
    keep = (torch.arange(HIDDEN) < 6).float()
    small = compact(
        model, Masks(hidden=keep, head_layer=torch.tensor([1.0, 0, 0]), mlp=torch.tensor([0.0, 0, 1]))
    )
    small.save_pretrained(tmp_path)
    size = model_size(small)
    assert (tmp_path / "model.safetensors").stat().st_size < 4 * size.total + 20_000
    assert size.encoder == sum(
        p.numel() for n, p in small.named_parameters() if "encoder.layer" in n and "LayerNorm" not in n
    )
    ids = torch.randint(1, 40, (4, 6))
    torch.save(ids, tmp_path / "ids.pt")
    code = (
        "import sys, torch, prumux\n"
        "from transformers import AutoModelForSequenceClassification as A\n"
        "m = A.from_pretrained(sys.argv[1]).eval()\n"
        "ids = torch.load(sys.argv[1] + '/ids.pt', weights_only=True)\n"
        "torch.save(m(ids).logits.detach(), sys.argv[1] + '/logits.pt')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    with torch.no_grad():
        assert (torch.load(tmp_path / "logits.pt", weights_only=True) - small(ids).logits).abs().max() <= 1e-6


def test_structure_counts_what_compaction_leaves():
    model = model_of(2)
    masks = Masks(
        head=(torch.rand(LAYERS, HEADS) > 0.5).float(),
        intermediate=(torch.rand(LAYERS, FFN) > 0.5).float(),
        hidden=(torch.arange(HIDDEN) > 3).float(),
    )
    assert Structure.of(model.config, masks) == Structure.of(compact(model, masks).config)
