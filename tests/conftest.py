"""Fixtures shared by the tests: tiny models, their inputs, and the folder of recorded numbers where there is one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test may need the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PRUMUX_RESULTS", "")  # no results store, unless a test names one

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from prumux import PrumuxConfig
from prumux.data.toy import toy_tokenizer


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    """Builds a tiny configuration: 2 layers, width 16, own vocabulary, no dropout."""

    def build(**changes: object) -> PrumuxConfig:
        values = {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "max_position_embeddings": 40,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.2,
        }
        return PrumuxConfig(**values | changes)

    return build


@pytest.fixture
def rows():
    """Builds token ids and a ragged attention mask, both [rows, length]; every row starts with a real token."""

    def build(count: int, length: int = 7, vocab_size: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(1, vocab_size, (count, length))
        lengths = torch.randint(2, length + 1, (count, 1))
        mask = (torch.arange(length) < lengths).long()
        return ids * mask, mask

    return build


AUTHORS_SHAPE = {
    "vocab_size": 900,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture
def bert(tmp_path) -> Path:
    """A plain BERT classifier as a pickle, as CoFi's are."""
    folder = tmp_path / "CoFi-SST2"
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**AUTHORS_SHAPE, num_labels=2)).eval()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def mux(bert, tmp_path) -> Path:
    """A multiplexed BERT in MUX-PLM's format (index_pos, N = 2)."""
    folder = tmp_path / "muxbert_mnli"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "num_instances": 2, "muxing_variant": "gaussian_hadamard", "demuxing_variant": "index_pos",
        "num_hidden_demux_layers": 3, "retrieval_loss_coeff": 0,
        "architectures": ["MuxedBertForSequenceClassification"],
        "id2label": {str(i): f"LABEL_{i}" for i in range(3)},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state |= {"instance_embedding": torch.randn(2, 16), "classifier.weight": torch.randn(3, 16)}
    state["classifier.bias"] = torch.zeros(3)
    shared = {"demux_instance_embedding": torch.randn(2, 16)}
    for layer, width in ((1, 32), (2, 16), (3, 16)):
        shared |= {f"dense_{layer}.weight": torch.randn(16, width), f"dense_{layer}.bias": torch.randn(16)}
    for copy in ("demux_module.", "demultiplexer.demux_module."):
        state |= {copy + name: value.clone() for name, value in shared.items()}
    state |= {
        "demultiplexer.pre_decoder.weight": torch.randn(16, 16),
        "demultiplexer.pre_decoder.bias": torch.zeros(16),
    }
    state |= {f"demultiplexer.pre_decoder_layer_norm.{n}": torch.ones(16) for n in ("weight", "bias")}
    torch.save(state, folder / "pytorch_model.bin")
    return folder
