"""Dense weights with the authors' ``zs.pt``: its masks are folded into the weights, and what they remove goes."""

from __future__ import annotations

from torch import Tensor

from prumux.checkpoints.source import Source
from prumux.errors import UserError
from prumux.models.heads import PrumuxForMaskedLM
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.pruning.compaction import compact
from prumux.pruning.masks import Masks

MASK_FAMILIES = {
    "head_z": "head",
    "head_layer_z": "head_layer",
    "intermediate_z": "intermediate",
    "mlp_z": "mlp",
    "hidden_z": "hidden",
}


def fold_masks(source: Source, model: PrumuxPreTrainedModel) -> PrumuxPreTrainedModel:
    """The compacted model under the masks of ``zs.pt``."""
    assert source.masks is not None
    if isinstance(model, PrumuxForMaskedLM):
        raise UserError(
            f"{source.name}: a masked language model with zs.pt is not supported, only classifiers are pruned"
        )
    unknown = sorted(set(source.masks) - set(MASK_FAMILIES))
    if unknown:
        raise UserError(f"{source.name}: zs.pt has '{unknown[0]}', expected: {', '.join(MASK_FAMILIES)}")
    config = model.config
    layers = config.num_hidden_layers
    shapes = {
        "head": (layers, config.num_attention_heads), "head_layer": (layers,),
        "intermediate": (layers, config.intermediate_size), "mlp": (layers,), "hidden": (config.dense_hidden_size,),
    }  # fmt: skip
    masks: dict[str, Tensor] = {}
    for name, value in source.masks.items():
        family = MASK_FAMILIES[name]
        squeezed = tuple(size for size in value.shape if size != 1)
        wanted = tuple(size for size in shapes[family] if size != 1)
        if squeezed != wanted or config.is_pruned:
            raise UserError(
                f"{source.name}: {name} in zs.pt has shape {tuple(value.shape)}, which does not fit its weights "
                f"({layers} layers, {config.num_attention_heads} heads, FFN {config.intermediate_size}, hidden size "
                f"{config.hidden_size}): the two files are of different models, or the weights are pruned already"
            )
        if value.is_complex() or not bool(((value >= 0) & (value <= 1)).all()):
            raise UserError(f"{source.name}: {name} in zs.pt has values outside 0 to 1: the file is damaged")
        masks[family] = value.float().reshape(shapes[family])
    try:
        return compact(model, Masks(**masks))
    except ValueError as error:
        raise UserError(f"{source.name}: zs.pt: {error}") from error
