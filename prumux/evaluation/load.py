"""Loads the model to evaluate and its dense baseline; a broken folder is a UserError."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from prumux.errors import UserError, first_line
from prumux.evaluation.locate import shown
from prumux.evaluation.throughput import instances
from prumux.models.architecture import is_authors
from prumux.models.quiet import quiet_transformers
from prumux.models.tokenizers import load_tokenizer, standard_tokenizer
from prumux.reports.methods import method_name

logger = logging.getLogger(__name__)

BROKEN_FOLDER = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate: its name in the table, its tokenizer (None: not trained) and its folder."""

    name: str
    model: torch.nn.Module
    tokenizer: Any = None
    path: str | None = None


def load_model(path: str | Path, name: str | None = None, tokenizer: str | None = None) -> Candidate:
    """A trained model and its tokenizer from a folder with config.json and safetensors.

    Args:
        tokenizer: folder or hub name, for a folder that has none; of a converted BERT it is found without.

    Raises:
        UserError: no such folder, a broken or incomplete file, or no tokenizer.
    """
    model, missing = _load_weights(path)
    if missing:
        raise UserError(
            f"{shown(path)} has no weights for {missing[0]}: finetune it first, or name another --model"
        )
    name = name or method_name(instances(model), size(model)["sparsity"])
    return Candidate(name, model, _tokenizer(Path(path), model, tokenizer), str(shown(path)))


def _tokenizer(path: Path, model: torch.nn.Module, given: str | None) -> Any:
    words = is_token_classifier(model.config)
    try:
        return load_tokenizer(str(path), words=words)
    except UserError:
        if given is not None:
            return load_tokenizer(given, words=words)
        standard = None
        if (path / "conversion.json").is_file():  # converted while the hub was out of reach
            standard = standard_tokenizer("bert", model.config.vocab_size, words=words)  # type: ignore[arg-type,union-attr]
        if standard is None:
            raise UserError(
                f"{shown(path)} has no tokenizer: name the one it was trained with (--tokenizer, a folder or hub name)"
            ) from None
        logger.warning("%s has no tokenizer: taking BERT's", shown(path))
        return standard


def load_baseline(baseline: str | None, measured: Candidate, dense: Path, seed: int) -> Candidate:
    """The dense model that a speedup refers to.

    Args:
        baseline: a model's folder, or a config (JSON file, or folder without weights) for random weights.
            None takes ``dense`` if there is such a model and it has the unpruned shape of ``measured``, else
            random weights in that shape. A folder whose classifier isn't trained gives throughput only.
        measured: the evaluated model; it is its own baseline when the folders are the same.

    Raises:
        UserError: the baseline can't be read or is multiplexed.
    """
    shape = dense_config(measured.model.config)
    if baseline is None and (dense / "config.json").is_file():
        if _same_shape(_read_config(dense), shape):
            baseline = str(dense)
        else:
            logger.warning("%s has another shape than the evaluated model: not the baseline", shown(dense))
    if baseline is None:
        return Candidate("dense (random weights)", _random_model(shape, seed))
    path = Path(baseline)
    if measured.path and path.exists() and path.resolve() == Path(measured.path).resolve():
        return measured
    config = _read_config(path)
    headless = not any("Classification" in name for name in config.architectures or ())
    if headless:
        config.architectures = shape.architectures  # sentences or tokens, as the evaluated model
    if getattr(config, "num_instances", 1) != 1:
        raise UserError(f"baseline {shown(path)} mixes {config.num_instances} inputs: name a model with N=1")
    if path.is_file() or not any(path.glob("*.safetensors")):
        return Candidate(
            f"dense ({path.stem}, random weights)", _random_model(config, seed), path=shown(path)
        )
    model, missing = _load_weights(path, config if headless else None)
    if missing:
        return Candidate("dense (untrained head)", model, path=shown(path))
    return load_model(path, name="dense")


def dense_config(config: Any) -> Any:
    """The configuration of the same encoder before pruning, without multiplexing."""
    if not hasattr(config, "num_instances"):
        return config
    fields = config.to_dict() | {
        "num_instances": 1,
        "hidden_size": config.dense_hidden_size,
        "kept_hidden": None,
        "kept_heads": None,
        "kept_intermediate": None,
    }
    return type(config)(**fields)


def is_token_classifier(config: Any) -> bool:
    """Does a model with this configuration label every token?"""
    return any("TokenClassification" in name for name in getattr(config, "architectures", None) or ())


def _auto_class(config: Any) -> Any:
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    return (
        AutoModelForTokenClassification if is_token_classifier(config) else AutoModelForSequenceClassification
    )


def size(model: torch.nn.Module) -> dict[str, Any]:
    """``parameters, parameters_without_embeddings, sparsity`` as they are in the model."""
    from prumux.pruning.accounting import model_size

    if not hasattr(model.config, "num_instances"):  # a baseline of another library
        total = sum(tensor.numel() for tensor in model.parameters())
        tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
        return {"sparsity": 0.0, "parameters": total, "parameters_without_embeddings": total - tables}
    counted = model_size(model)
    return {
        "sparsity": counted.sparsity,
        "parameters": counted.total,
        "parameters_without_embeddings": counted.without_embeddings,
    }


def _load_weights(path: str | Path, kind: Any = None) -> tuple[torch.nn.Module, list[str]]:
    """The model of a folder in float32, and the names of the weights that its file lacks.

    ``kind``: a configuration whose architecture is taken in place of the folder's own.
    """
    config = _read_config(path)
    if is_authors({"_kind": config.model_type, **config.to_dict()}):
        raise UserError(
            f"{shown(path)} is the authors' checkpoint: prumux convert {shown(path)} FOLDER, and name that"
        )
    config = kind or config
    try:
        with quiet_transformers():  # what is missing becomes one line here instead of a table
            model, info = _auto_class(config).from_pretrained(
                path,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
            )
    except Exception as error:  # safetensors, transformers and huggingface_hub each raise their own kinds
        raise _unreadable(path, error) from error
    return model, sorted(info["missing_keys"])


def _read_config(path: str | Path) -> Any:
    """The configuration of a model's folder or of a JSON file."""
    from transformers import AutoConfig

    import prumux  # noqa: F401  (registers its configuration)

    path = Path(path)
    file = path if path.is_file() else path / "config.json"
    if not file.is_file():
        raise UserError(f"no model in {shown(path)} (no config.json): check the path")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return AutoConfig.for_model(**{"model_type": "prumux", **fields})
    except BROKEN_FOLDER as error:
        raise _unreadable(file, error) from error


def _unreadable(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"can't load {shown(path)} ({first_line(error)}): the file is damaged or incomplete, create it again"
    )


def _same_shape(config: Any, shape: Any) -> bool:
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return all(getattr(config, name, None) == getattr(shape, name, None) for name in names)


def _random_model(config: Any, seed: int) -> torch.nn.Module:
    """A model with random weights; the global random state stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _auto_class(config).from_config(config)
