"""Parameter counts against counting the tensors of real models, dense, pruned and ragged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prumux import Masks, PrumuxForMaskedLM, PrumuxForSequenceClassification, compact
from prumux.pruning.accounting import Structure, attention_parameters, ffn_parameters, model_size, sparsity


def prunable(model: nn.Module) -> int:
    """Parameters of the encoder's linear layers, counted one by one."""
    linears = (m for layer in model.bert.encoder.layer for m in layer.modules() if isinstance(m, nn.Linear))
    return sum(parameter.numel() for linear in linears for parameter in linear.parameters())


def test_block_formulas_by_hand():
    # 3 heads of 2: query, key, value 3 x (6 x 5 + 6), output 5 x 6 + 5
    assert attention_parameters(5, 3, 1, 2) == 3 * (30 + 6) + 30 + 5
    assert attention_parameters(5, 0, 0, 2) == 0
    assert ffn_parameters(5, 7, 1) == (5 * 7 + 7) + (7 * 5 + 5)
    assert ffn_parameters(5, 0, 0) == 0


@pytest.mark.parametrize("num_instances", [1, 2])
def test_a_dense_model(tiny, num_instances):
    model = PrumuxForSequenceClassification(tiny(num_instances=num_instances))
    size = model_size(model)
    assert size.encoder == size.dense_encoder == prunable(model)
    assert size.sparsity == 0.0
    assert size.total == sum(tensor.numel() for tensor in model.state_dict().values())
    embeddings = model.bert.embeddings
    tables = (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings)
    assert size.total - size.without_embeddings == sum(table.weight.numel() for table in tables)


def test_bert_base_has_85_million_prunable_parameters(tiny):
    config = tiny(hidden_size=768, num_attention_heads=12, intermediate_size=3072, num_hidden_layers=12)
    assert Structure.dense(config).parameters == 12 * (4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768)


def test_tied_weights_are_counted_once(tiny):
    model = PrumuxForMaskedLM(tiny(num_instances=2))
    assert model.lm_head.decoder.weight is model.bert.embeddings.word_embeddings.weight
    unique = {id(tensor): tensor.numel() for tensor in [*model.parameters(), *model.buffers()]}
    assert model_size(model).total == sum(unique.values())


@pytest.mark.parametrize("seed", range(4))
def test_pruned_and_pruned_again(tiny, seed):
    torch.manual_seed(seed)
    model = PrumuxForSequenceClassification(tiny(num_instances=2))
    dense = prunable(model)
    for _ in range(2):  # the second time the layers are ragged
        config = model.config
        masks = Masks(
            head=(torch.rand(2, max(config.heads_per_layer)) > 0.3).float(),
            head_layer=(torch.rand(2) > 0.2).float(),
            intermediate=(torch.rand(2, max(config.intermediate_per_layer)) > 0.4).float(),
            mlp=(torch.rand(2) > 0.2).float(),
            hidden=torch.cat([torch.ones(1), (torch.rand(config.hidden_size - 1) > 0.3).float()]),
        )
        expected = sparsity(model.config, masks)
        model = compact(model, masks)
        size = model_size(model)
        assert size.dense_encoder == dense
        assert size.encoder == prunable(model)
        assert size.sparsity == pytest.approx(expected) == pytest.approx(1 - prunable(model) / dense)
        assert size.total == sum(tensor.numel() for tensor in model.state_dict().values())


def test_the_ends_of_the_scale(tiny):
    config = tiny()
    assert sparsity(config) == sparsity(config, Masks()) == 0.0
    assert sparsity(config, Masks(head_layer=torch.zeros(2), mlp=torch.zeros(2))) == 1.0


def test_soft_values_keep_their_unit(tiny):
    config = tiny()
    assert sparsity(config, Masks(head=torch.full((2, 4), 1e-6), mlp=torch.full((2,), 0.1))) == 0.0
