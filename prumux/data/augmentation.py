"""Random words in place of some of a training row's: a teacher can speak of more texts than the file holds."""

from __future__ import annotations

import torch
from torch import Tensor


def replace_tokens(features: dict[str, Tensor], share: float, special: Tensor) -> dict[str, Tensor]:
    """``features`` with other words in some places.

    A token is replaced with probability ``share`` by one drawn from the batch, so words come as often as in the text,
    and wherever it stands in its row by the same one: what two sentences have in common they still have in common.
    Draws from torch's generator of the device.

    Args:
        features: ``input_ids`` and ``attention_mask``, ``[R, L]`` each, and what else there is; not modified.
        share: from 0 to below 1.
        special: ids that are neither replaced nor drawn ``[K]``.
    """
    ids = features["input_ids"]
    words = features["attention_mask"].bool() & ~torch.isin(ids, special)
    drawn = ids[words]
    if not len(drawn):
        return features
    first = (ids[:, :, None] == ids[:, None, :]).byte().argmax(2)  # where a place's token stands first
    chosen = (torch.rand(ids.shape, device=ids.device) < share).gather(1, first)
    others = drawn[torch.randint(len(drawn), ids.shape, device=ids.device)].gather(1, first)
    return features | {"input_ids": torch.where(words & chosen, others, ids)}
