"""What a forward pass costs by count: parameters, operations per example by part, bytes, and the roofline time.

The counts are those of the fast forward (:mod:`prumux.inference.forward`): after the last attention block only the
positions that are read, no operation for a removed block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prumux.errors import UserError
from prumux.models.configuration import PrumuxConfig
from prumux.models.heads import PrumuxForTokenClassification
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.pruning.accounting import Structure, attention_parameters, ffn_parameters

PARTS = ("embedding", "multiplexer", "attention", "ffn", "demultiplexer")
VECTOR_OPERATIONS = 8  # of a LayerNorm with its residual, per element


@dataclass(frozen=True)
class Cost:
    """The cost of one example.

    Attributes:
        parameters: of each part. operations: floating-point operations of each part (a multiply-add is two).
        matrix_operations: those among them that are matrix products.
        bytes: moved per example when the weights are read once for ``groups`` groups.
    """

    parameters: dict[str, int]
    operations: dict[str, float]
    matrix_operations: float
    bytes: float

    @property
    def total(self) -> float:
        return sum(self.operations.values())

    def seconds(self, matrix_peak: float, vector_peak: float, bandwidth: float) -> float:
        """The roofline: the time that one example takes at least.

        Args:
            matrix_peak, vector_peak: operations per second of matrix products and of everything else.
            bandwidth: bytes per second.
        """
        vector = self.total - self.matrix_operations
        return max(self.matrix_operations / matrix_peak + vector / vector_peak, self.bytes / bandwidth)


def cost(
    model: nn.Module | PrumuxConfig | Mapping[str, Any],
    num_instances: int | None = None,
    length: int = 128,
    *,
    bytes_per_number: int = 4,
    groups: int = 8,
    num_labels: int | None = None,
    all_tokens: bool = False,
) -> Cost:
    """Count the cost of a classifier per example.

    Args:
        model: a model, or a configuration with the kept structure, also as the content of its JSON file.
        num_instances: N; the model's own unless given.
        length: tokens per row.
        bytes_per_number: 4 for float32, 2 for bfloat16, 1 for int8.
        groups: in one pass, between which the weights stay in the caches.
        num_labels: classes; the model's own unless given.
        all_tokens: count a classifier of tokens, which a model says of itself.

    Raises:
        UserError: another kind of model, or a number below 1.
    """
    if isinstance(model, Mapping):
        model = PrumuxConfig(**model)
    if not isinstance(model, PrumuxConfig | PrumuxPreTrainedModel):
        raise UserError(
            f"the cost of a {type(model).__name__} is unknown: give a PruMUX model, its configuration, or the "
            "content of its JSON file"
        )
    if min(length, groups, 1 if num_instances is None else num_instances) < 1:
        raise UserError(
            f"num_instances {num_instances}, length {length}, groups {groups}: give 1 or more of each"
        )
    config: Any = model if isinstance(model, PrumuxConfig) else model.config
    all_tokens = all_tokens or isinstance(model, PrumuxForTokenClassification)
    instances = config.num_instances if num_instances is None else num_instances
    multiplexed = instances > 1 or config.multiplex_single
    classes = len(config.id2label) if num_labels is None else num_labels
    left = Structure.of(config)
    width, dense = config.hidden_size, config.dense_hidden_size
    demux = config.demuxing_variant
    prefix = instances if multiplexed and demux == "index" else 0
    prefix += bool(prefix) and config.first_token_id is not None
    positions = prefix + length
    first = 1 + (instances if multiplexed and demux == "index" else 0)
    read = positions if all_tokens else first

    vector = dict.fromkeys(PARTS, 0.0)  # per group
    matrix = dict.fromkeys(PARTS, 0.0)
    attending = [i for i, heads in enumerate(left.heads) if heads]
    last = attending[-1] if attending else -1
    rows = positions if attending else read  # that the layers still compute
    vector["embedding"] = (
        VECTOR_OPERATIONS * width * length * (instances + (multiplexed and config.embed_twice))
    )
    if multiplexed:
        if config.muxing_variant.startswith("random_ortho"):
            matrix["multiplexer"] = 2.0 * instances * length * width * width
        elif config.muxing_variant == "gaussian_attention_v2":
            tokens, inner = instances * positions, config.intermediate_size
            size = (
                config.num_attention_heads * config.head_dim
            )  # two layers, over the tokens and over the instances
            matrix["multiplexer"] = 2.0 * tokens * (8 * width * size + 4 * width * inner)
            matrix["multiplexer"] += 4.0 * size * tokens * (positions + instances)
            vector["multiplexer"] = 4.0 * VECTOR_OPERATIONS * tokens * (width + inner)
        else:
            vector["multiplexer"] = 2.0 * instances * length * width
    for layer, (heads, inner) in enumerate(zip(left.heads, left.intermediate, strict=True)):
        if heads:
            size = heads * left.head_dim
            queries = read if layer == last else positions
            matrix["attention"] += 2.0 * width * size * (2 * positions + 2 * queries)  # K, V; Q, output
            matrix["attention"] += 4.0 * size * queries * positions  # scores, context
            vector["attention"] += VECTOR_OPERATIONS * (queries * width + heads * queries * positions)
            rows = queries
        if inner:
            matrix["ffn"] += 4.0 * width * inner * rows
            vector["ffn"] += VECTOR_OPERATIONS * rows * (width + 2 * inner)
    parameters = _parameters(config, left, instances, multiplexed, classes, not all_tokens)
    if multiplexed:
        halves, square = 2.0 * width * dense, 2.0 * dense * dense
        separate = {
            "index_pos": halves + instances * square * (config.num_hidden_demux_layers - 1),
            "index": halves,
            "mlp": instances * (halves + square),
        }
        matrix["demultiplexer"] = separate.get(demux, separate["mlp"])  # of an own variant a guess
        vector["demultiplexer"] = VECTOR_OPERATIONS * instances * dense * (config.num_hidden_demux_layers + 1)
    elif not all_tokens:
        matrix["demultiplexer"] = 2.0 * width * dense  # the pooler
    matrix["demultiplexer"] += 2.0 * instances * dense * classes
    if all_tokens:  # what is done at [CLS] of a sentence is done at every token
        matrix["demultiplexer"] *= length
        vector["demultiplexer"] *= length
    if multiplexed and demux == "index":
        matrix["demultiplexer"] += halves * instances  # the keys' half, once per group
    weights = sum(parameters.values()) - parameters["embedding"]
    moved = weights / groups + length * width * instances  # weights once per pass, and the rows of the table
    moved += 2.0 * positions * width * (1 + sum(map(bool, left.heads)) + sum(map(bool, left.intermediate)))
    return Cost(
        parameters,
        {part: (matrix[part] + vector[part]) / instances for part in PARTS},
        sum(matrix.values()) / instances,
        moved * bytes_per_number / instances,
    )


def _parameters(
    config: PrumuxConfig, left: Structure, instances: int, multiplexed: bool, classes: int, pooled: bool
) -> dict[str, int]:
    width, dense = config.hidden_size, config.dense_hidden_size
    norms = 2 * width
    tables = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    attention = sum(
        attention_parameters(width, heads, heads > 0, left.head_dim) + norms * (heads > 0)
        for heads in left.heads
    )
    ffn = sum(ffn_parameters(width, inner, inner > 0) + norms * (inner > 0) for inner in left.intermediate)
    first = dense if multiplexed or pooled else width  # what the classifier reads
    classifier = first * classes + classes
    if config.classifier_transform:
        classifier = first * dense + dense + dense * classes + classes
    linear, square, norm = width * dense + dense, dense * dense + dense, 2 * dense
    demux = linear if pooled else 0  # the pooler
    if multiplexed:
        joint = 2 * width * dense + dense
        demux = {
            "index_pos": instances * width + joint + square * (config.num_hidden_demux_layers - 1) + norm,
            "index": joint + norm + width * (instances + 1),
            "mlp": instances * (linear + norm) + square + norm,
        }.get(config.demuxing_variant, joint)
    maps = instances * width * (width if config.muxing_variant.startswith("random_ortho") else 1)
    if config.muxing_variant == "gaussian_attention_v2":
        heads, inner = config.num_attention_heads, config.intermediate_size
        layer = (
            attention_parameters(width, heads, 1, left.head_dim) + ffn_parameters(width, inner, 1) + 2 * norms
        )
        maps += 2 * int(layer) + width  # and the gain
    return {
        "embedding": tables * width + norms,
        "multiplexer": maps if multiplexed else 0,
        "attention": int(attention),
        "ffn": int(ffn),
        "demultiplexer": demux + classifier,
    }
