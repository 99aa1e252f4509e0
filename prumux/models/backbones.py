"""Encoders of Hugging Face that a model can start from: their configurations in our fields, their weights' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Backbone:
    """One family of checkpoints.

    Attributes:
        names: regular expressions for weight names -> ours, applied in this order.
        fields: what its configuration, given in our fields as far as they agree, says in other words than ours.
        default_tokenizer: on the hub; used where only an architecture is named.
    """

    names: Mapping[str, str]
    fields: Callable[[Mapping[str, Any]], dict[str, Any]] = field(default=lambda given: {})
    default_tokenizer: str | None = None


def _roberta(given: Mapping[str, Any]) -> dict[str, Any]:
    """Positions are counted from behind the padding token's id."""
    pad = given.get("pad_token_id")
    pad = 1 if pad is None else pad
    return {"pad_token_id": pad, "position_offset": pad + 1}


def _electra(given: Mapping[str, Any]) -> dict[str, Any]:
    """The head's first activation is a gelu.

    Raises:
        ValueError: embeddings narrower than the encoder (electra-small), which are projected before the first layer.
    """
    hidden, embedded = given.get("hidden_size", 256), given.get("embedding_size", 128)
    if hidden != embedded:
        raise ValueError(
            f"embedding_size {embedded} differs from hidden_size {hidden}: only ELECTRA encoders without a projection "
            "of the embeddings are supported, such as google/electra-base-discriminator"
        )
    return {"pooler_act": "gelu"}


# A sentence's head of two layers, as RoBERTa's and ELECTRA's weights name it.
HEAD = {r"^classifier\.dense\.": "bert.pooler.dense.", r"^classifier\.out_proj\.": "classifier."}

BACKBONES: dict[str, Backbone] = {
    "bert": Backbone(
        names={
            r"^cls\.predictions\.transform\.dense\.": "lm_head.transform.0.",
            r"^cls\.predictions\.transform\.LayerNorm\.gamma$": "lm_head.transform.2.weight",  # before Transformers
            r"^cls\.predictions\.transform\.LayerNorm\.beta$": "lm_head.transform.2.bias",  # can rename them
            r"^cls\.predictions\.transform\.LayerNorm\.": "lm_head.transform.2.",
            r"^cls\.predictions\.bias$": "lm_head.bias",
        },
        default_tokenizer="bert-base-uncased",
    ),
    "roberta": Backbone(
        names={
            r"^roberta\.": "bert.",
            **HEAD,
            r"^lm_head\.dense\.": "lm_head.transform.0.",
            r"^lm_head\.layer_norm\.": "lm_head.transform.2.",
        },
        fields=_roberta,
        default_tokenizer="roberta-base",
    ),
    "electra": Backbone(
        names={
            r"^electra\.": "bert.",
            **HEAD,
        },
        fields=_electra,
        default_tokenizer="google/electra-base-discriminator",
    ),
}
