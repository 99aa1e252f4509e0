"""`convert_checkpoint`: a checkpoint of the authors (DataMUX, MUX-PLM, CoFi, PruMUX) becomes our normal folder."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prumux.checkpoints.fields import SPECIAL_IDS, encoder_fields, multiplexing_fields
from prumux.checkpoints.folding import fold_masks
from prumux.checkpoints.labels import class_labels
from prumux.checkpoints.names import Names, Pairs, both, demultiplexer_names, retrieval_names
from prumux.checkpoints.source import TOKENIZER_FILES, Source, read_source
from prumux.errors import UserError, first_line
from prumux.files import save_atomically
from prumux.models.backbones import BACKBONES
from prumux.models.configuration import PrumuxConfig
from prumux.models.heads import (
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxForTokenClassification,
)
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.models.tokenizers import load_tokenizer, standard_tokenizer
from prumux.pruning.accounting import Structure, model_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """What was found in a checkpoint and what became of it; ``str()`` is a table."""

    facts: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.facts.items())


def convert_checkpoint(
    src: str | Path, dst: str | Path, *, task: str | None = None, tokenizer: str | None = None
) -> Conversion:
    """Write what is in ``src`` as a folder for ``from_pretrained``.

    Args:
        src: a folder or a hub name: MUX-PLM's and PruMUX's multiplexed BERT, DataMUX's RoBERTa, CoFi's or any other
            BERT; dense, dense with ``zs.pt``, or physically pruned.
        dst: a folder that does not exist yet.
        task: gives the classes their names where the checkpoint doesn't; found in ``src``'s name where that says it.
        tokenizer: folder or hub name to take the tokenizer from, where ``src`` has none (default: its kind's, such as
            bert-base-uncased's, where that has as many tokens).

    Raises:
        UserError: anything that is not understood completely; ``dst`` is not written then.
    """
    dst = Path(dst).resolve()
    if dst == Path.cwd() or (dst.exists() and (not dst.is_dir() or any(dst.iterdir()))):
        raise UserError(f"{dst} exists already: choose another folder, or remove it")
    source = read_source(src)
    try:
        model, facts = _build(source, task)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # a config.json can hold anything; torch and transformers answer in kinds of their own
        raise UserError(
            f"{source.name} has unexpected content ({first_line(error)}): it is damaged or of another kind"
        ) from error
    found, facts["tokenizer"] = _tokenizer(source, model, tokenizer)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        if found is not None:
            found.save_pretrained(folder)
        (folder / "conversion.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    save_atomically(dst, write)
    return Conversion(facts)


def _tokenizer(
    source: Source, model: PrumuxPreTrainedModel, given: str | None
) -> tuple[PreTrainedTokenizerBase | None, str]:
    """The source's own tokenizer, else the given one, else its kind's; and where it is from.

    It is saved anew: its files may rely on the ``model_type`` of the source's configuration.
    """
    words = isinstance(model, PrumuxForTokenClassification)
    if any((source.folder / name).is_file() for name in TOKENIZER_FILES):
        try:
            return load_tokenizer(str(source.folder), words=words), "its own"
        except UserError:
            logger.warning("%s: its tokenizer's files can't be read", source.name)
    if given is not None:
        return load_tokenizer(given, words=words), given
    kind = str(source.config["model_type"])
    standard = standard_tokenizer(kind, model.config.vocab_size, words=words)
    if standard is None:
        return None, "none: name one with --tokenizer before evaluating"
    return standard, f"none of its own: that of {BACKBONES[kind].default_tokenizer}"


def _build(source: Source, task: str | None) -> tuple[PrumuxPreTrainedModel, dict[str, str]]:
    """The model, compacted where the source has masks, and the facts for the table."""
    given = source.config
    backbone = given.get("model_type")
    if backbone == "prumux":
        raise UserError(f"{source.name} is in our format already: load it with from_pretrained")
    multiplexed = "num_instances" in given
    if backbone not in (SPECIAL_IDS if multiplexed else ("bert",)):
        raise UserError(
            f"{source.name} is a model of type '{backbone}'"
            f"{'' if multiplexed else ' without multiplexing'}: expected one of the authors' BERT or DataMUX's RoBERTa"
        )
    names = Names(source.tensors, str(backbone))
    fields = encoder_fields(source, names)
    facts: dict[str, str] = {"source": source.name}
    if multiplexed:
        fields |= multiplexing_fields(source, str(backbone))
    state, model_class = _state(source, names, fields, multiplexed, str(backbone))
    names.check_nothing_left()
    if model_class is not PrumuxForMaskedLM:
        labels = class_labels(source, task, len(state["classifier.weight"]))
        fields |= {
            "id2label": dict(enumerate(labels)),
            "label2id": {name: i for i, name in enumerate(labels)},
        }
    model = _load(source, model_class, fields, state)
    kind = {"bert": "MUX-PLM / PruMUX" if multiplexed else "BERT / CoFi", "roberta": "DataMUX"}[str(backbone)]
    how = "physically pruned" if model.config.is_pruned else "dense"
    if source.masks is not None:
        model = fold_masks(source, model)
        how = "dense weights with zs.pt, folded"
    facts["format"] = f"{kind} ({backbone}), {how}"
    return model, facts | _facts(model, multiplexed)


def _state(
    source: Source, names: Names, fields: dict[str, Any], multiplexed: bool, backbone: str
) -> tuple[dict[str, Tensor], type[PrumuxPreTrainedModel]]:
    """Our state dict and the class it belongs to; ``fields`` learns whether there is a vocabulary head."""
    kind = " ".join(map(str, source.config.get("architectures") or []))
    words = names.left["bert.embeddings.word_embeddings.weight"]
    state: dict[str, Tensor] = {}
    if multiplexed:
        variant, instances = fields["demuxing_variant"], fields["num_instances"]
        names.take_all("bert.pooler.")  # there is one, but nothing reads it
        state["bert.multiplexer.vectors"] = names.take("instance_embedding")
        if fields["muxing_variant"] == "gaussian_attention_v2":
            for theirs, ours in (("muxing_attention.", "rows."), ("muxing_attention_2.", "across.")):
                for name, value in names.take_all(theirs).items():
                    state["bert.multiplexer." + ours + name.removeprefix(theirs)] = value
            state["bert.multiplexer.gain"] = torch.ones(words.shape[1])
        layers = fields.get("num_hidden_demux_layers", PrumuxConfig().num_hidden_demux_layers)
        depth = sum(re.fullmatch(r"dense_\d+\.weight", name) is not None for name in names.shared)
        if variant == "index_pos" and depth != layers:
            raise UserError(
                f"{source.name}: its demultiplexer has {depth} dense layers, num_hidden_demux_layers in config.json "
                f"says {layers}: they don't belong together"
            )
        shared, own = demultiplexer_names(variant, instances, layers)
        if backbone == "roberta":
            own = [(ours, theirs.replace("layernorm", "layernorm_presoftmax")) for ours, theirs in own]
        _move(names, shared, own, "demultiplexer", state, "bert.demultiplexer")
        if variant == "index":
            state["bert.prefix_embeddings"] = _prefix(source, words, instances, backbone)
            if "demultiplexer.dense_before_out_proj.weight" in names.left:
                fields["classifier_transform"] = True
                _move(names, [], both("transform.0", "dense_before_out_proj"), "demultiplexer", state, "")
    has_classifier = any(name in names.left for name in _CLASSIFIERS)
    if not multiplexed and not has_classifier:
        raise UserError(
            f"{source.name} is an encoder without a classifier, which needs no conversion: start from it with "
            "--model_name_or_path"
        )
    model_class = _model_class(kind, has_classifier)
    if has_classifier:
        theirs = next(name for name in _CLASSIFIERS if name in names.left).removesuffix(".weight")
        state |= {ours: names.take(name) for ours, name in both("classifier", theirs)}
        names.check_tied("demultiplexer.bias", f"{theirs}.bias", state["classifier.bias"])
    pruned = "kept_heads" in fields
    wanted = model_class is PrumuxForMaskedLM or (fields.get("retrieval_loss_coeff") or 0) > 0
    if multiplexed and backbone == "bert" and any(name.startswith("retrieval_head.") for name in names.left):
        if not pruned and source.config.get("tie_word_embeddings", True):
            names.check_tied("retrieval_head.decoder.weight", "the word embeddings", words)
            names.left["retrieval_head.decoder.weight"] = words
            if "retrieval_head.bias" not in names.left and "retrieval_head.decoder.bias" in names.left:
                names.left["retrieval_head.bias"] = names.take("retrieval_head.decoder.bias")
        if wanted and not pruned and source.masks is None:
            fields["separate_retrieval"] = True
            shared, own = retrieval_names(fields["demuxing_variant"], fields["num_instances"])
            _move(names, shared, own, "retrieval_head", state, "lm_head.demultiplexer")
            state["lm_head.decoder.weight"] = names.take("retrieval_head.decoder.weight")
            state["lm_head.bias"] = names.take("retrieval_head.bias")
            names.check_tied("retrieval_head.decoder.bias", "retrieval_head.bias", state["lm_head.bias"])
    if "lm_head.bias" not in state and model_class is not PrumuxForMaskedLM:
        fields["retrieval_loss_coeff"] = 0.0
    if model_class is PrumuxForTokenClassification:
        names.take_all("bert.pooler.")  # which no token is read through
    state |= names.take_all("bert.")
    return state, model_class


_CLASSIFIERS = ("classifier.weight", "demultiplexer.decoder.weight", "demultiplexer.out_proj.weight")


def _model_class(kind: str, has_classifier: bool) -> type[PrumuxPreTrainedModel]:
    if not has_classifier:
        return PrumuxForMaskedLM
    return PrumuxForTokenClassification if "TokenClassification" in kind else PrumuxForSequenceClassification


def _move(names: Names, shared: Pairs, own: Pairs, theirs: str, state: dict[str, Tensor], ours: str) -> None:
    prefix = f"{ours}." if ours else ""
    state |= {prefix + target: names.take_shared(name) for target, name in shared}
    state |= {prefix + target: names.take(f"{theirs}.{name}") for target, name in own}


def _prefix(source: Source, words: Tensor, instances: int, backbone: str) -> Tensor:
    """Word vectors of the index prefix: a marker per instance, then the filler [N + 1, D]."""
    _, filler, top = SPECIAL_IDS[backbone]
    top = len(words) if top is None else top
    ids = [top - (i + 2) for i in range(instances)] + [filler]
    if max(ids) >= len(words) or min(ids) < 0:
        raise UserError(f"{source.name}: a vocabulary of {len(words)} tokens lacks those of the index prefix")
    return words[ids].clone()


def _load(
    source: Source, model_class: type[PrumuxPreTrainedModel], fields: dict[str, Any], state: dict[str, Tensor]
) -> PrumuxPreTrainedModel:
    try:
        model = model_class(PrumuxConfig(**fields)).eval()
    except Exception as error:  # the config's validation raises kinds of its own
        raise UserError(f"{source.name}: wrong config.json: {first_line(error)}") from error
    for name, value in model.state_dict().items():
        if name not in state:
            raise UserError(f"{source.name}: nothing among its tensors gives {name}: it is incomplete")
        if state[name].shape != value.shape:
            raise UserError(
                f"{source.name}: {name} has shape {tuple(state[name].shape)}, its config.json and the other tensors "
                f"need {tuple(value.shape)}"
            )
    unknown = sorted(set(state) - set(model.state_dict()))
    if unknown:
        raise UserError(
            f"{source.name}: {unknown[0]} has no place in the model that its config.json describes"
        )
    model.load_state_dict(state)
    return model


def _lost_hidden(config: PrumuxConfig) -> bool:
    """Hidden dimensions are gone, and physically pruned weights don't say which."""
    return config.hidden_size < config.dense_hidden_size and config.kept_hidden is None


def _facts(model: PrumuxPreTrainedModel, multiplexed: bool) -> dict[str, str]:
    config = model.config
    left, size = Structure.of(config), model_size(model)
    facts = {"model": type(model).__name__, "instances (N)": str(config.num_instances)}
    if multiplexed:
        facts |= {"muxing, demuxing": f"{config.muxing_variant}, {config.demuxing_variant}"}
    facts |= {
        "layers": str(config.num_hidden_layers),
        "hidden size": f"{left.hidden} of {config.dense_hidden_size}"
        + (", not known which: only a teacher of the same width fits" if _lost_hidden(config) else ""),
        "heads": f"{' '.join(map(str, left.heads))} (of {config.num_attention_heads})",
        "FFN": f"{' '.join(map(str, left.intermediate))} (of {config.intermediate_size})",
        "sparsity": f"{size.sparsity:.3f}, {size.total:,} parameters",
    }
    if multiplexed:
        facts["retrieval head"] = "kept" if getattr(model, "lm_head", None) is not None else "left out"
    if not isinstance(model, PrumuxForMaskedLM):
        facts["labels"] = ", ".join(config.id2label[i] for i in range(len(config.id2label)))
        if facts["labels"].startswith("LABEL_"):
            facts["labels"] += " (their meaning is unknown: name the task with --task)"
    defaults = PrumuxConfig()
    settings = (
        "attend_padding", "embed_twice", "use_token_types", "multiplex_single", "first_token_id", "separate_retrieval",
        "position_offset",
    )  # fmt: skip
    on = [f"{n}={getattr(config, n)}" for n in settings if getattr(config, n) != getattr(defaults, n)]
    facts["compatibility"] = ", ".join(on) or "none"
    return facts
