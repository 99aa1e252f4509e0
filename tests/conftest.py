"""Fixtures shared by the tests: tiny models, their inputs, and the folder of recorded numbers where there is one."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test may need the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from prumux import PrumuxConfig


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


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers recorded from the authors' code."""
    folder = Path(__file__).parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no recorded numbers in {folder.parent.name}/{folder.name} beside the project")
    return folder
