"""Builds or loads a model for a run, and turns everything that can be wrong with a checkpoint into one clear line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from prumux.errors import UserError, first_line
from prumux.models.architecture import build_config, read_config
from prumux.models.backbones import BACKBONES
from prumux.models.configuration import PrumuxConfig
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.models.quiet import quiet_transformers

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=PrumuxPreTrainedModel)

# Settings that a checkpoint's weights depend on: they can't be changed when starting from it.
FIXED_BY_WEIGHTS = (
    "num_instances",
    "muxing_variant",
    "demuxing_variant",
    "num_hidden_demux_layers",
    "gaussian_hadamard_norm",
    "binary_hadamard_epsilon",
    "embed_twice",
)
NEEDED = ("bert.embeddings.", "bert.encoder.")  # weights without which a checkpoint is no encoder
MULTIPLEXING = (
    "bert.multiplexer.",
    "bert.demultiplexer.",
    "bert.prefix_embeddings",
)  # and no multiplexed one


def load_model(
    model_class: type[Model],
    *,
    model_path: str | None = None,
    config_path: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    classifies: bool = True,
    trained_head: bool = False,
) -> Model:
    """A float32 model with the weights of ``model_path``, or random ones in the shape of ``config_path``.

    Args:
        overrides: configuration values the user asked for.
        label_names: the task's labels, ``None`` for regression; only used when ``classifies``.
        trained_head: refuse weights without a classifier.

    Raises:
        UserError: see the message; among others a checkpoint made for another N.
    """
    if model_path is None and config_path is None:
        raise UserError("no model: give --model_name_or_path (weights) or --config_name (random weights)")
    overrides = dict(overrides or {})
    fields = read_config(config_path if config_path is not None else str(model_path))
    made_with = fields if config_path is None or model_path is None else read_config(model_path)
    inherited: Mapping[str, Any] = {}
    if config_path is not None and made_with["_kind"] == "prumux":
        # beside a checkpoint of ours, an architecture file says what it names and no more, and not how rows are padded
        inherited, fields = made_with, {**fields, "pad_token_id": made_with.get("pad_token_id")}
        if made_with.get("kept_heads") is None:  # then these follow from the file's sizes
            inherited = {k: v for k, v in made_with.items() if k not in ("head_dim", "dense_hidden_size")}
    config = build_config({**inherited, **fields}, overrides, label_names, classifies=classifies)
    if model_path is None:
        return _construct(model_class, config)
    if made_with["_kind"] == "prumux":
        _check_fixed(model_path, made_with, config)
    if classifies:
        _check_labels(model_path, made_with, config)
    with torch.device("meta"):
        _construct(model_class, config)  # an impossible architecture is told from a damaged file
    try:
        with quiet_transformers():
            pair: Any = model_class.from_pretrained(  # its annotation doesn't know output_loading_info
                model_path,
                config=config,
                key_mapping=dict(BACKBONES[made_with["_kind"]].names)
                if made_with["_kind"] in BACKBONES
                else None,
                dtype=torch.float32,
                weights_only=True,  # of a pickle; it is read where there is no safetensors file
                ignore_mismatched_sizes=True,  # refused below, with the shapes
                output_loading_info=True,
            )
            model, report = pair
            vars(model).pop(
                "_weight_conversions", None
            )  # or it would be saved under the source's names again
    except Exception as error:  # safetensors, huggingface_hub and transformers raise many kinds
        raise UserError(
            f"can't load the weights of {model_path} ({first_line(error)}): expected model.safetensors (or "
            "pytorch_model.bin) that fits the configuration; the file is missing or damaged"
        ) from error
    own = made_with["_kind"] == "prumux" and made_with.get("num_instances", 1) == config.num_instances
    _check_weights(model_path, report, NEEDED + MULTIPLEXING if own else NEEDED)
    headless = any(name.startswith("classifier.") for name in report["missing_keys"])
    if trained_head and headless:
        raise UserError(
            f"{model_path} has no trained classifier: name a model that was finetuned on the task"
        )
    names = list((made_with.get("id2label") or {}).values())
    if classifies and label_names is not None and not headless and _are_placeholders(names):
        raise UserError(
            f"{model_path} does not say which of its classes is which: write their names ({', '.join(label_names)}, in "
            "the order it was trained with) into id2label and label2id of its config.json"
            + ("" if Path(model_path).exists() else f", after hf download {model_path} --local-dir FOLDER")
        )
    if report["missing_keys"]:
        logger.info("%s: initialised anew: %s", model_path, ", ".join(sorted(report["missing_keys"])))
    return model


def _construct(model_class: type[Model], config: PrumuxConfig) -> Model:
    try:
        return model_class(config)
    except ValueError as error:
        raise UserError(f"wrong model configuration: {first_line(error)}") from error


def _check_weights(path: str, report: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    """Refuse weights of another shape, and those that lack tensors whose names start with one of ``needed``."""
    for name, found, wanted in sorted(report["mismatched_keys"]):
        if name.startswith("classifier."):
            raise UserError(
                f"{path} has a classifier of {found[0]} classes, the data has {wanted[0]}: name a model of this task"
            )
        raise UserError(
            f"can't load the weights of {path}: {name} has the shape {tuple(found)}, the configuration needs "
            f"{tuple(wanted)}: leave --config_name out or name weights of this shape"
        )
    missing = sorted(name for name in report["missing_keys"] if name.startswith(needed))
    if missing:
        raise UserError(
            f"can't load the weights of {path}: {len(missing)} tensors of the encoder are not in it, the first is "
            f"{missing[0]}: name a BERT or PruMUX checkpoint with as many layers as the configuration"
        )


def _check_fixed(path: str, made_with: Mapping[str, Any], config: PrumuxConfig) -> None:
    """A multiplexed checkpoint can't be used with another N or other variants."""
    if made_with.get("num_instances", 1) == 1:
        return  # a plain encoder has no multiplexer yet
    defaults = PrumuxConfig()
    for name in FIXED_BY_WEIGHTS:
        has, wanted = made_with.get(name, getattr(defaults, name)), getattr(config, name)
        if wanted != has:
            raise UserError(
                f"{path} was made with {name} {has}, but {wanted} was asked for: leave --{name} out or name another "
                "--model_name_or_path"
            )


def _check_labels(path: str, fields: Mapping[str, Any], config: PrumuxConfig) -> None:
    """A classifier's labels must be the task's (in any case), in any order that its own config gives."""
    stored = fields.get("id2label")
    if not stored or not is_classifier(path):
        return
    names = [str(stored[key]) for key in sorted(stored, key=int)]
    wanted = list(config.id2label.values())
    if _are_placeholders(names):
        return  # looked at after loading: there may be no classifier yet
    ours, data = {name.lower() for name in names}, {name.lower() for name in wanted}
    if fields["_tags_words"] and not data <= ours:  # a part of the data may lack some tags
        unknown = sorted(name for name in wanted if name.lower() not in ours)
        raise UserError(
            f"{path} has no tag {', '.join(unknown)}, only {', '.join(names)}: name a model of this task"
        )
    if not fields["_tags_words"] and ours != data:
        raise UserError(
            f"{path} has the labels {', '.join(map(str, names))}, the data has {', '.join(map(str, wanted))}: "
            "name a model of this task"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def _are_placeholders(names: Sequence[Any]) -> bool:
    """No names, or those that Transformers makes up."""
    return [str(name) for name in names] == [f"LABEL_{i}" for i in range(len(names))]


def is_classifier(path: str) -> bool:
    """Do the weights of a folder have a classifier; of those elsewhere it is believed."""
    from safetensors import safe_open

    file = Path(path) / "model.safetensors"
    if not file.is_file():
        return True  # on the hub, or sharded: compare the names
    try:
        with safe_open(file, "pt") as weights:
            names = set(weights.keys())
            return not names.isdisjoint(
                {"classifier.weight", "classifier.out_proj.weight"}
            )  # RoBERTa, ELECTRA: HEAD
    except Exception:  # damaged: loading says so
        return False
