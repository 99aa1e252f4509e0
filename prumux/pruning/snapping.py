"""`snap`: evaluation masks whose true sparsity is within epsilon of the target, by the gates' importance."""

from __future__ import annotations

import bisect

import torch
from torch import Tensor

from prumux.errors import UserError
from prumux.pruning.accounting import sparsity
from prumux.pruning.l0 import L0Gates, soft_value
from prumux.pruning.masks import Masks

SHIFT_RANGE = 30.0  # log alpha plus or minus this keeps everything or removes everything
BISECTIONS = 40


def evaluation_masks(gates: L0Gates, target: float, epsilon: float) -> tuple[Masks, bool]:
    """The gates' evaluation masks, moved to the target sparsity when they miss it by more than ``epsilon``.

    Returns:
        The masks and whether they had to be moved.

    Raises:
        UserError: no structure within reach has the target sparsity.
    """
    masks = gates.deterministic()
    if abs(sparsity(gates.config, masks) - target) <= epsilon:
        return masks, False
    return snap(gates, target, epsilon), True


def snap(gates: L0Gates, target: float, epsilon: float) -> Masks:
    """Move all gates by one common shift until the target is bracketed, then remove single units up to it.

    Raises:
        UserError: the model is sparser already, or no structure is within epsilon of the target.
    """
    if (already := sparsity(gates.config)) > target + epsilon:
        raise UserError(
            f"the model's sparsity is {already:.3f} already, above the target {target:g}: give a higher "
            "--target_sparsity or start from a denser model"
        )
    low, high = -SHIFT_RANGE, SHIFT_RANGE  # sparsity falls as the shift grows
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if sparsity(gates.config, gates.deterministic(middle)) > target:
            low = middle
        else:
            high = middle
    masks = gates.deterministic(high)
    config = gates.config
    order = _removal_order(gates, masks, gates.deterministic(low))
    for unit in order:
        reached = sparsity(config, masks)
        if target - epsilon <= reached and (reached >= target or abs(reached - target) <= epsilon / 2):
            break
        candidate = _without(masks, unit)
        if sparsity(config, candidate) <= target + epsilon:
            masks = candidate
    if abs(sparsity(config, masks) - target) > epsilon:
        masks = _exchange(gates, masks, order, target, epsilon) or masks
    reached = sparsity(config, masks)
    if abs(reached - target) > epsilon:
        families = ", ".join(gates.log_alpha)
        raise UserError(
            f"no structure within {epsilon:g} of sparsity {target:g} can be formed by removing {families} "
            f"(nearest: {reached:.3f}): raise --sparsity_epsilon or add families to --pruning_type"
        )
    return masks


def _removal_order(gates: L0Gates, kept: Masks, sparser: Masks) -> list[tuple[str, tuple[int, ...]]]:
    """Units to try to remove, least important first.

    First those that the shift on the sparser side of the target removes, then all fine units, last the hidden
    dimensions (where the fine units that are left are all too large for the gap).
    """
    first: list[tuple[float, str, tuple[int, ...]]] = []
    then: list[tuple[float, str, tuple[int, ...]]] = []
    last: list[tuple[float, str, tuple[int, ...]]] = []
    for family, value in kept.items():
        score = soft_value(gates.log_alpha[family].detach())
        gone = getattr(sparser, family) == 0
        for index in (value != 0).nonzero().tolist():
            unit = (score[tuple(index)].item(), family, tuple(index))
            if gone[tuple(index)]:
                first.append(unit)
            elif family in ("intermediate", "head"):
                then.append(unit)
            elif family == "hidden":
                last.append(unit)
    order = sorted(first) + sorted(then) + sorted(last)[:-1]  # one hidden dimension must stay
    return [(family, index) for _, family, index in order]


def _exchange(
    gates: L0Gates, masks: Masks, order: list[tuple[str, tuple[int, ...]]], target: float, epsilon: float
) -> Masks | None:
    """Remove one unit more than fits and give FFN dimensions back, the most important first; ``None``: no luck.

    Small models need it: what is left after the FFN dimensions are gone may be too coarse for the gap.
    """
    if masks.intermediate is None:
        return None
    config, soft = gates.config, soft_value(gates.log_alpha["intermediate"].detach())
    present = torch.zeros_like(soft, dtype=torch.bool)
    for layer, size in enumerate(config.intermediate_per_layer):
        present[layer, :size] = True
    gone = present & (masks.intermediate == 0)
    ranked = torch.where(gone, soft, -1.0).flatten().argsort(descending=True)[: int(gone.sum())]

    def given_back(candidate: Masks, count: int) -> Masks:
        values = dict(candidate.items())
        inner = values["intermediate"].flatten().scatter(0, ranked[:count], soft.flatten()[ranked[:count]])
        return Masks(**values | {"intermediate": inner.view_as(soft)})

    for unit in order:
        if unit[0] == "intermediate" or getattr(masks, unit[0])[unit[1]] == 0:
            continue
        candidate = _without(masks, unit)
        count = bisect.bisect_left(
            range(len(ranked)), -target, key=lambda count: -sparsity(config, given_back(candidate, count))
        )
        for close in (given_back(candidate, count), given_back(candidate, max(count - 1, 0))):
            if abs(sparsity(config, close) - target) <= epsilon:
                return close
    return None


def _without(masks: Masks, unit: tuple[str, tuple[int, ...]]) -> Masks:
    family, index = unit

    def zeroed(value: Tensor) -> Tensor:
        value = value.clone()
        value[index] = 0.0
        return value

    values = dict(masks.items())
    return Masks(**{name: zeroed(value) if name == family else value for name, value in values.items()})
