"""The tokenizer of a model's folder, or the standard one of its kind, or one line that says what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from prumux.errors import UserError, first_line
from prumux.models.architecture import read_config
from prumux.models.backbones import BACKBONES
from prumux.models.configuration import PrumuxConfig
from prumux.models.quiet import quiet_transformers


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
