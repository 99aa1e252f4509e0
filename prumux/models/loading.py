"""Builds or loads a model for a run, and turns everything that can be wrong with a checkpoint into one clear line."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase
from transformers.activations import ACT2FN
from transformers.utils import logging as transformers_logging

from prumux.errors import UserError, first_line
from prumux.models.backbones import BACKBONES
from prumux.models.configuration import PrumuxConfig
from prumux.models.modeling import PrumuxPreTrainedModel

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


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No load reports and bars inside the block: what matters of them becomes one line of our own."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


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


def default_tokenizer(config_path: str | None) -> str | None:
    """The tokenizer on the hub that goes with an architecture's kind; ``None`` where it says no kind."""
    kind = read_config(config_path)["_kind"] if config_path is not None else None
    return BACKBONES[kind].default_tokenizer if kind in BACKBONES else None


def standard_tokenizer(kind: str, vocab_size: int, *, words: bool = False) -> PreTrainedTokenizerBase | None:
    """The tokenizer on the hub of an encoder's kind; ``None`` out of reach, or if it has another number of tokens."""
    try:
        tokenizer = load_tokenizer(BACKBONES[kind].default_tokenizer, words=words)
    except UserError:
        return None
    return tokenizer if len(tokenizer) == vocab_size else None


def load_tokenizer(*paths: str | None, words: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of the first of ``paths`` that is given.

    Args:
        words: it will get lists of words (RoBERTa's must know).

    Raises:
        UserError: no path, none there, or one without the tokens that sentences are padded and read with.
    """
    path = next((path for path in paths if path), None)
    if path is None:
        raise UserError("no tokenizer: give --tokenizer_name or a --model_name_or_path that has one")
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(f"no folder {path}: expected a model's folder, or the name of a model on the hub")
    try:
        with quiet_transformers():
            tokenizer = _read_tokenizer(path, {"add_prefix_space": True} if words else {})
            if len(tokenizer) <= len(
                tokenizer.all_special_ids
            ):  # what Transformers makes up where there are no files
                raise ValueError("its vocabulary is missing")
    except Exception as error:
        raise UserError(
            f"can't load a tokenizer from {path} ({first_line(error)}): give --tokenizer_name with a folder or the "
            "name of a model on the hub"
        ) from error
    for name, token in (("padding", tokenizer.pad_token_id), ("first", tokenizer.cls_token_id)):
        if token is None:
            raise UserError(
                f"the tokenizer of {path} has no {name} token ([PAD], [CLS]): name an encoder's tokenizer, such as "
                "bert-base-uncased"
            )
    return tokenizer


def _read_tokenizer(path: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:
        try:
            fields, _ = PrumuxConfig.get_config_dict(path)
        except OSError:
            raise error from None
        if "model_type" in fields:
            raise
        return BertTokenizer.from_pretrained(path, **options)  # an old BERT, as `read_config` has it


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
