"""Reads a folder in one of the authors' formats, without executing anything in it: config, tensors, masks."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prumux.errors import UserError, first_line

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MASKS = "zs.pt"
GATES = "l0_module.pt"  # the state of a pruning run; it says nothing that zs.pt doesn't
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Source:
    """What was found: ``config.json``, the tensors by name, and the masks of ``zs.pt`` where there are some."""

    folder: Path
    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    masks: dict[str, Tensor] | None


def read_source(src: str | Path) -> Source:
    """Read a folder, or a model on the hub.

    Raises:
        UserError: no checkpoint there, or one that can't be read safely and completely.
    """
    folder = Path(src) if Path(src).exists() else _download(str(src))
    if not folder.is_dir():
        raise UserError(f"{src} is a file: expected the folder of a checkpoint")
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None and any(folder.glob("*.index.json")):
        raise UserError(
            f'the weights of {src} are in several files: save them as one first (max_shard_size="10GB")'
        )
    if file is None or not (folder / "config.json").is_file():
        raise UserError(
            f"{src} is no checkpoint: expected a folder with config.json and {' or '.join(WEIGHTS)}"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"can't read {folder / 'config.json'} ({error}): expected JSON") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} holds no model configuration: expected a JSON object")
    masks = folder / MASKS
    if (folder / GATES).is_file() and not masks.is_file():
        raise UserError(
            f"{src} has {GATES} but no {MASKS}: pruning has not ended, there are no final masks to apply"
        )
    return Source(folder, str(src), config, _tensors(file), _tensors(masks) if masks.is_file() else None)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"no folder {name}: expected the folder of a checkpoint, or the name of a model on the hub"
        )
    try:
        wanted = ["config.json", *WEIGHTS, MASKS, *TOKENIZER_FILES]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except HFValidationError as error:
        raise UserError(f"{name} is neither a folder nor a name on the hub: check the spelling") from error
    except Exception as error:  # huggingface_hub raises many kinds, offline and online
        raise UserError(
            f"can't download {name} ({first_line(error)}): check the name and the network, or give a folder"
        ) from error


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; a pickle is read with ``weights_only=True``, which calls nothing in it."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise kinds of their own
        reason = first_line(error)
        if "weights_only" in str(error) or "Unsupported" in str(error):
            reason = "it holds more than tensors, which could run code when it is read"
            if not zipfile.is_zipfile(file):
                reason += ", or is truncated"
        raise UserError(f"can't read {file} ({reason}): expected a complete file of tensors") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{file} holds no tensors by name: expected the state of a model")
    wrong = next(
        (n for n, v in content.items() if not isinstance(v, Tensor) or v.layout != torch.strided), None
    )
    if wrong is not None:
        raise UserError(f"{file}: '{wrong}' is no dense tensor: expected tensors by name")
    return {
        str(name): value.detach().float() if value.is_floating_point() else value
        for name, value in content.items()
    }
