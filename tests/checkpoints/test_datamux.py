"""DataMUX's RoBERTa checkpoints against their published computation, written here on transformers' own RobertaModel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaModel

from prumux import Masks, compact, convert_checkpoint

N, WIDTH, CLASSES, PAD = 2, 16, 3, 1
FIRST, FILLER = 49923, 50000  # what DataMUX's code puts first in a row, and between the markers


class Published(nn.Module):
    """The parts of a DataMUX sequence classifier by their published names."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.config = RobertaConfig(
            vocab_size=50265, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
            max_position_embeddings=40, type_vocab_size=1, pad_token_id=PAD, num_labels=CLASSES, layer_norm_eps=1e-5,
            attn_implementation="eager", architectures=["RobertaSequenceClassificationMuxed"],
        )  # fmt: skip
        for name, value in {
            "num_instances": N, "muxing_variant": "gaussian_hadamard", "demuxing_variant": variant,
            "retrieval_loss_coeff": 0.1, "task_loss_coeff": 0.9, "learn_muxing": False,
        }.items():  # fmt: skip
            setattr(self.config, name, value)
        self.variant = variant
        self.roberta = RobertaModel(self.config, add_pooling_layer=False)
        self.instance_embedding = nn.Parameter(torch.randn(N, WIDTH))
        self.demultiplexer = nn.ModuleDict({
            "dense_before_out_proj": nn.Linear(WIDTH, WIDTH), "out_proj": nn.Linear(WIDTH, CLASSES),
        })  # fmt: skip
        if variant == "index":
            self.demultiplexer["dense"] = nn.Linear(2 * WIDTH, WIDTH)
            self.demultiplexer["layer_norm"] = nn.LayerNorm(WIDTH)
        else:
            layers = {f"dense_{i}": nn.Linear(WIDTH, WIDTH) for i in range(N)}
            self.demultiplexer["demux_module"] = nn.ModuleDict(
                layers | {f"layer_norm_{i}": nn.LayerNorm(WIDTH) for i in range(N)}
            )
            self.demultiplexer["layernorm_presoftmax"] = nn.LayerNorm(WIDTH)
        own = nn.ModuleDict({f"dense_{i}": nn.Linear(WIDTH, WIDTH) for i in range(N)})
        # there is one, which is not converted; unlike MUX-PLM's it shares nothing with the classifier
        self.retrieval_head = nn.ModuleDict({"demux_module": own, "decoder": nn.Linear(WIDTH, 2)})
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B * N, L] -> logits [B * N, C]; padding is attended."""
        groups = len(ids) // N
        if self.variant == "index":
            prefix = torch.full((N, N + 1), FILLER)
            prefix[:, N] = FIRST
            for i in range(N):
                prefix[i, i] = self.config.vocab_size - (i + 2)
            ids = torch.cat([prefix.repeat(groups, 1), ids], dim=1)
        else:
            ids = torch.cat([torch.full((len(ids), 1), FIRST), ids[:, 1:]], dim=1)
        embedded = self.roberta.embeddings(input_ids=ids).view(groups, N, -1, WIDTH)
        mixed = (embedded * self.instance_embedding[None, :, None]).mean(1)
        hidden = self.roberta(
            inputs_embeds=mixed, attention_mask=torch.ones(mixed.shape[:2])
        ).last_hidden_state
        demux = self.demultiplexer
        if self.variant == "index":
            joined = torch.cat([hidden[:, :N], hidden[:, N : N + 1].expand(-1, N, -1)], dim=-1)
            features = demux["layer_norm"](gelu(demux["dense"](joined)))
            features = gelu(demux["dense_before_out_proj"](features))
        else:
            own = demux["demux_module"]
            separated = [own[f"layer_norm_{i}"](gelu(own[f"dense_{i}"](hidden[:, 0]))) for i in range(N)]
            features = gelu(demux["dense_before_out_proj"](torch.stack(separated, dim=1)))
            features = demux["layernorm_presoftmax"](features)
        return demux["out_proj"](features).flatten(0, 1)

    def save(self, folder: Path) -> None:
        self.config.save_pretrained(folder)
        torch.save(self.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("variant", ["index", "mlp"])
@torch.no_grad()
def test_a_roberta_checkpoint_gives_the_published_logits(tmp_path, variant):
    theirs = Published(variant).eval()
    theirs.save(tmp_path / "datamux-mnli-2")
    facts = convert_checkpoint(tmp_path / "datamux-mnli-2", tmp_path / "ours").facts
    assert facts["format"].startswith("DataMUX (roberta)")
    assert facts["labels"] == "contradiction, entailment, neutral"
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(5, 49000, (6, 9))
    ids[1, 6:], ids[2, 5:] = PAD, PAD
    logits = ours(ids).logits
    torch.testing.assert_close(logits, theirs(ids), rtol=0, atol=2e-5)
    torch.testing.assert_close(ours(ids, attention_mask=(ids != PAD).long()).logits, logits)

    masks = Masks(hidden=(torch.arange(WIDTH) != 3).float(), mlp=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(
        compact(ours, masks)(ids).logits, ours(ids, masks=masks).logits, rtol=0, atol=1e-5
    )
