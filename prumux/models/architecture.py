"""Reads a model's configuration file, checks it, and turns it with the task's labels into a `PrumuxConfig`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from prumux.errors import UserError, first_line
from prumux.models.backbones import BACKBONES
from prumux.models.configuration import PrumuxConfig

SUPPORTED_TYPES = ("prumux", *BACKBONES)
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def read_config(path: str | Path) -> dict[str, Any]:
    """The fields of a JSON file, of a checkpoint folder's ``config.json``, or of a model on the hub.

    Raises:
        UserError: nothing there, not readable, or an unsupported kind of model.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        if file.is_file():
            fields = json.loads(file.read_text(encoding="utf-8"))
        elif Path(path).is_dir() or str(path).startswith((".", "/", "~")):
            raise UserError(f"no model in {path}: expected a folder with config.json and model.safetensors")
        else:
            fields, _ = PrumuxConfig.get_config_dict(str(path))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: not JSON, not UTF-8
        raise UserError(
            f"can't read the model configuration {path} ({first_line(error)}): expected a folder, a JSON file or the "
            "name of a model on the hub; check the name and the network"
        ) from error
    if not isinstance(fields, dict):
        raise UserError(
            f"{path} holds no model configuration: expected a JSON object with fields such as hidden_size"
        )
    # without a type it is an old BERT, such as prajjwal1/bert-tiny
    kind = fields.pop("model_type", "prumux" if "num_instances" in fields else "bert")
    if kind not in SUPPORTED_TYPES:
        raise UserError(f"{path} is a model of type '{kind}', expected one of: {', '.join(SUPPORTED_TYPES)}")
    architectures = fields.pop("architectures", None)
    for name in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        fields.pop(name, None)
    labels = fields.get("id2label") or {}
    if not isinstance(labels, dict) or not all(str(number).isdigit() for number in labels):
        raise UserError(
            f"the model configuration {path}: id2label is {labels!r:.60}, expected numbers and names such as "
            '{"0": "negative", "1": "positive"}'
        )
    tags = any("TokenClassification" in str(name) for name in architectures or ())
    return fields | {"_kind": kind, "_tags_words": tags}


def is_authors(fields: Mapping[str, Any]) -> bool:
    """Is this the configuration of a multiplexed checkpoint as the authors publish it, to be converted first?"""
    return fields["_kind"] != "prumux" and "num_instances" in fields


def build_config(
    fields: Mapping[str, Any],
    overrides: Mapping[str, Any],
    label_names: Sequence[str] | None,
    *,
    classifies: bool,
) -> PrumuxConfig:
    """A configuration from ``fields`` with ``overrides`` and the task's labels (``None``: regression)."""
    values = dict(fields) | dict(overrides)
    values.pop("_tags_words", None)
    if not isinstance(values.get("pad_token_id", 0), int | None):
        raise UserError(
            f"wrong model configuration: pad_token_id is {values['pad_token_id']!r}, expected a number"
        )
    if (positions := values.get("position_embedding_type", "absolute")) != "absolute":
        raise UserError(
            f"wrong model configuration: position_embedding_type is {positions!r}, expected 'absolute': weights of "
            "relative positions would be left out, choose an encoder without them"
        )
    if (kind := values.pop("_kind", None)) in BACKBONES:
        try:
            values |= BACKBONES[kind].fields(values)
        except ValueError as error:
            raise UserError(f"wrong model configuration: {error}") from None
    if classifies:
        names = list(label_names) if label_names is not None else ["score"]
        values |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        values.pop("num_labels", None)
    for name in SIZES:
        size = values.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise UserError(
                f"wrong model configuration: {name} is {size!r}, expected a whole number of at least 1"
            )
    try:
        config = PrumuxConfig(**values)
    except Exception as error:  # the config's validation raises kinds of its own
        raise UserError(f"wrong model configuration: {first_line(error)}") from error
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        raise UserError(
            f"wrong model configuration: pad_token_id is {config.pad_token_id}, expected one of the vocabulary's "
            f"{config.vocab_size} tokens: name the tokenizer that belongs to the model with --tokenizer_name"
        )
    if config.hidden_act not in ACT2FN:
        raise UserError(
            f"wrong model configuration: hidden_act is '{config.hidden_act}', expected for instance gelu"
        )
    return config
