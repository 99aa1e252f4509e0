"""`logit_difference`: a built engine beside the model it was built from, on random rows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from prumux.errors import UserError
from prumux.inference.hardware import INT8
from prumux.models.heads import PrumuxClassifier

CHECKED_LENGTH = 24  # tokens of the random rows
# Largest difference from the model's own float32 logits, as a share of their largest value.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
INT8_TOLERANCE = 0.15


def logit_difference(
    engine: Callable[[Tensor, Tensor], Tensor],
    model: PrumuxClassifier,
    *,
    dtype: torch.dtype,
    int8: bool,
    max_length: int,
) -> float:
    """The largest difference of the engine's logits from the model's own in float32, over three ragged groups.

    Args:
        engine: ``(input_ids, attention_mask)``, both [rows, L], to logits.
        model: left as it is.
        dtype, int8: what the engine computes in.
        max_length: tokens, the longest rows that both take.

    Raises:
        UserError: they differ by more than the dtype explains, or are not finite.
    """
    length = min(CHECKED_LENGTH, max_length)
    rows = 3 * model.config.num_instances
    ids = torch.randint(
        model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0)
    )  # the same in every build
    mask = (torch.arange(length) < (torch.arange(rows) % length + 1)[:, None]).long()
    ours, theirs = engine(ids, mask).cpu(), _float32_logits(model, ids, mask)
    if theirs.dim() == 3:  # at padding there is nothing to compare
        ours, theirs = ours[mask.bool()], theirs[mask.bool()]
    difference = (ours - theirs).abs().max().item()
    allowed = (INT8_TOLERANCE if int8 else TOLERANCE[dtype]) * max(1.0, theirs.abs().max().item())
    if not difference <= allowed:
        raise UserError(
            f"the fast forward's logits differ by {difference:.2g} from the model's (allowed in "
            f"{INT8 if int8 else str(dtype).removeprefix('torch.')}: {allowed:.2g}): use float32, or the plain model"
        )
    return difference


def _float32_logits(model: PrumuxClassifier, ids: Tensor, mask: Tensor) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    parameter = next(model.parameters())
    reference = model.eval() if parameter.dtype == torch.float32 else copy.deepcopy(model.eval()).float()
    logits = reference(ids.to(parameter.device), mask.to(parameter.device)).logits.cpu()
    for module, training in modes:
        module.training = training
    return logits
