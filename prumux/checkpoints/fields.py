"""Fields of our config, from a checkpoint's config.json and from the tensors that its pruning has left."""

from __future__ import annotations

from typing import Any

import torch

from prumux.checkpoints.names import Names, layers_with
from prumux.checkpoints.source import Source
from prumux.errors import UserError
from prumux.models.demultiplexers import DEMULTIPLEXERS
from prumux.models.multiplexers import MULTIPLEXERS

SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size",
)  # fmt: skip


OTHER_FIELDS = (
    "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps",
    "pad_token_id", "classifier_dropout", "gaussian_hadamard_norm", "binary_hadamard_epsilon",
    "num_hidden_demux_layers", "retrieval_percentage", "retrieval_loss_coeff", "task_loss_coeff",
)  # fmt: skip


# Token ids that are written into the authors' code, by backbone: what stands first in every row, the filler of the
# index prefix, and what its markers are counted down from (None: the size of the vocabulary).
SPECIAL_IDS: dict[str, tuple[int, int, int | None]] = {
    "bert": (101, 680, 680),
    "roberta": (49923, 50000, None),
}


def encoder_fields(source: Source, names: Names) -> dict[str, Any]:
    """Encoder sizes from config.json, and from the tensors what pruning has left."""
    given = source.config
    fields = {name: given[name] for name in (*SIZES, *OTHER_FIELDS) if given.get(name) is not None}
    missing = [name for name in SIZES if name not in fields and name != "type_vocab_size"]
    wrong = [
        name for name in SIZES if name in fields and not (isinstance(fields[name], int) and fields[name] > 0)
    ]
    if missing or wrong:
        raise UserError(f"{source.name}: config.json has no usable {(missing + wrong)[0]}: it is incomplete")
    if fields["hidden_size"] % fields["num_attention_heads"]:
        raise UserError(f"{source.name}: hidden_size is not a multiple of num_attention_heads in config.json")
    head_dim = fields["hidden_size"] // fields["num_attention_heads"]
    words = "bert.embeddings.word_embeddings.weight"
    if words not in names.left or names.left[words].dim() != 2:
        raise UserError(f"{source.name}: no {words} among the tensors: this is no model of a BERT kind")
    width = names.left[words].shape[1]
    heads, inner = [], []
    for layer in range(fields["num_hidden_layers"]):
        query = names.left.get(f"bert.encoder.layer.{layer}.attention.self.query.weight", torch.empty(0))
        dense = names.left.get(f"bert.encoder.layer.{layer}.intermediate.dense.weight", torch.empty(0))
        if len(query) % head_dim:
            raise UserError(
                f"{source.name}: layer {layer} has {len(query)} query rows, no multiple of {head_dim}"
            )
        heads.append(len(query) // head_dim)
        inner.append(len(dense))
        for block, size in (("attention", heads[-1]), ("intermediate", inner[-1]), ("output", inner[-1])):
            if size == 0:
                _check_removed(source, names, f"bert.encoder.layer.{layer}.{block}.")
    for name, had, found in (
        ("num_attention_heads", fields["num_attention_heads"], max(heads, default=0)),
        ("intermediate_size", fields["intermediate_size"], max(inner, default=0)),
        ("hidden_size", fields["hidden_size"], width),
    ):
        if found > had:
            raise UserError(
                f"{source.name}: its tensors have {name} {found}, config.json says {had}: they don't belong together"
            )
    beyond = layers_with(names.left, "output.dense.weight") - set(range(len(heads)))
    if beyond:
        raise UserError(
            f"{source.name}: tensors of layer {min(beyond)}, but config.json has {len(heads)} layers"
        )
    dense_sizes = ([fields["num_attention_heads"]] * len(heads), [fields["intermediate_size"]] * len(inner))
    if width != fields["hidden_size"] or (heads, inner) != dense_sizes:
        fields |= {"head_dim": head_dim, "dense_hidden_size": fields["hidden_size"], "hidden_size": width}
        fields |= {"kept_heads": heads, "kept_intermediate": inner}
    return fields


def _check_removed(source: Source, names: Names, block: str) -> None:
    """Of a removed block the authors leave the LayerNorm behind, and nothing else; anything else is a damaged file."""
    norm = {"attention": "output.LayerNorm", "output": "LayerNorm"}.get(block.split(".")[-2])
    left_behind = {f"{block}{norm}.{kind}" for kind in ("weight", "bias")} if norm else set()
    found = set(names.take_all(block))
    if found != left_behind:
        wrong = sorted(found ^ left_behind)[0]
        raise UserError(
            f"{source.name}: {block.rstrip('.')} is neither whole nor removed ({wrong}): the file is incomplete"
        )


def multiplexing_fields(source: Source, backbone: str) -> dict[str, Any]:
    """Variants, and the settings under which the model computes what the authors' code does."""
    given = source.config
    fields: dict[str, Any] = {}
    for name, table in (("muxing_variant", MULTIPLEXERS), ("demuxing_variant", DEMULTIPLEXERS)):
        if str(given.get(name)) not in table:
            raise UserError(
                f"{source.name}: {name} is '{given.get(name)}', supported are: {', '.join(sorted(table))}"
            )
        fields[name] = given[name]
    instances = given["num_instances"]
    if not isinstance(instances, int) or instances < 1:
        raise UserError(f"{source.name}: num_instances is {instances}, expected a whole number of at least 1")
    first, _, _ = SPECIAL_IDS[backbone]
    if first >= given["vocab_size"]:
        raise UserError(
            f"{source.name}: a vocabulary of {given['vocab_size']} tokens lacks token {first}, with which the rows of "
            f"a {backbone} model start"
        )
    fields |= {
        "num_instances": instances,
        "learn_muxing": bool(given.get("learn_muxing", False)),
        "attend_padding": True,
        "embed_twice": True,
        "use_token_types": False,
        "multiplex_single": instances == 1,
        "first_token_id": first,
    }
    if backbone == "roberta":
        fields["position_offset"] = (given.get("pad_token_id") or 0) + 1
    return fields
