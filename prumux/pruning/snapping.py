"""`snap`: evaluation masks whose true sparsity is within epsilon of the target, by the gates' importance."""

from __future__ import annotations

import bisect
import copy
from typing import Any

import torch
from torch import Tensor

from prumux.errors import UserError
from prumux.pruning.gates import Gates
from prumux.pruning.masks import Masks

SHIFT_RANGE = 30.0  # log alpha plus or minus this keeps everything or removes everything
BISECTIONS = 40
Unit = tuple[
    str, tuple[Any, ...]
]  # family, and where in its mask: indices, or tensors of them for several at once


def evaluation_masks(gates: Gates, target: float, epsilon: float, multiple: int = 1) -> tuple[Masks, bool]:
    """The gates' evaluation masks, moved to the target sparsity when they miss it by more than ``epsilon``.

    Returns:
        The masks and whether they had to be moved.

    Raises:
        UserError: no structure within reach has the target sparsity.
    """
    gates = on_cpu(gates)
    masks = rounded(gates, gates.deterministic(), multiple)
    if abs(gates.cost.removed(masks) - target) <= epsilon:
        return masks, False
    return snap(gates, target, epsilon, multiple), True


def on_cpu(gates: Gates) -> Gates:
    """A copy where thousands of single units can be looked at without waiting for an accelerator each time."""
    elsewhere = any(value.device.type != "cpu" for value in gates.state_dict().values())
    return copy.deepcopy(gates).cpu() if elsewhere else gates


def snap(gates: Gates, target: float, epsilon: float, multiple: int = 1) -> Masks:
    """Move all gates by one common shift until the target is bracketed, then remove single units up to it.

    FFN and hidden dimensions are kept in multiples of ``multiple``. The masks are on the CPU.

    Raises:
        UserError: the model is sparser already, or no structure is within epsilon of the target.
    """
    if (already := gates.cost.removed()) > target + epsilon:
        raise UserError(
            f"the model's {gates.cost.unit} is {already:.3f} already, above the target {target:g}: give a higher "
            "--target_sparsity or start from a denser model"
        )
    gates = on_cpu(gates)
    low, high = bracket(gates, target, multiple)
    masks = rounded(gates, gates.deterministic(high), multiple)
    order: list[Unit]
    if multiple == 1:
        order = _removal_order(gates, masks, gates.deterministic(low))
    else:
        order = _runs(gates, masks, multiple)
    for unit in order:
        reached = gates.cost.removed(masks)
        if target - epsilon <= reached and (reached >= target or abs(reached - target) <= epsilon / 2):
            break
        candidate = _without(masks, unit)
        if gates.cost.removed(candidate) <= target + epsilon:
            masks = candidate
    if abs(gates.cost.removed(masks) - target) > epsilon and multiple == 1:
        masks = _exchange(gates, masks, order, target, epsilon) or masks
    reached = gates.cost.removed(masks)
    if abs(reached - target) > epsilon:
        families = ", ".join(gates.sizes)
        raise UserError(
            f"no structure within {epsilon:g} of {gates.cost.unit} {target:g} can be formed by removing {families} "
            f"(nearest: {reached:.3f}): raise --sparsity_epsilon"
            f"{', lower --round_to' if multiple > 1 else ''} or add families to --pruning_type"
        )
    return masks


def bracket(gates: Gates, target: float, multiple: int = 1) -> tuple[float, float]:
    """Two shifts next to each other, whose masks are sparser than ``target`` and not sparser."""
    low, high = -SHIFT_RANGE, SHIFT_RANGE  # sparsity falls as the shift grows
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if gates.cost.removed(rounded(gates, gates.deterministic(middle), multiple)) > target:
            low = middle
        else:
            high = middle
    return low, high


def rounded(gates: Gates, masks: Masks, multiple: int) -> Masks:
    """The masks with each layer's FFN dimensions, and the hidden ones, rounded to the nearest ``multiple``.

    The most important are kept; at least one multiple of the hidden dimensions stays.
    """
    if multiple == 1:
        return masks
    values = dict(masks.items())
    counts = {"intermediate": gates.config.intermediate_per_layer, "hidden": [gates.config.hidden_size]}
    for family in values.keys() & counts.keys():
        worth, kept = gates.importance(family), gates.kept_value(family)
        rows = values[family].view(-1, values[family].shape[-1]).clone()
        for i, available in enumerate(counts[family]):
            wanted = multiple * min(round(int((rows[i] != 0).sum()) / multiple), available // multiple)
            if family == "hidden":
                wanted = max(wanted, multiple)
            order = worth.view_as(rows)[i, :available].argsort(descending=True)[:wanted]
            rows[i] = 0.0
            rows[i, order] = kept.view_as(rows)[i, order]
        values[family] = rows.view_as(values[family])
    return Masks(**values)


def _runs(gates: Gates, masks: Masks, multiple: int) -> list[Unit]:
    """What to try to remove where sizes come in multiples: FFN dimensions of a layer, ``multiple`` at a time, least
    important first, then heads, last hidden dimensions, of which one multiple must stay.
    """
    order: list[Unit] = []
    for family in ("intermediate", "head", "hidden"):
        if (mask := getattr(masks, family)) is None:
            continue
        worth = torch.where(mask != 0, gates.importance(family), torch.inf)
        step = 1 if family == "head" else multiple
        found: list[tuple[float, Unit]] = []
        for row, ranked in enumerate(worth.view(-1, worth.shape[-1]).sort(dim=1).indices):
            values = worth.view(-1, worth.shape[-1])[row, ranked]
            for start in range(0, int(values.isfinite().sum()) - step + 1, step):
                places = ranked[start : start + step]
                index = (places,) if worth.dim() == 1 else (torch.tensor(row), places)
                found.append((values[start : start + step].sum().item(), (family, index)))
        found.sort(key=lambda item: item[0])
        order += [unit for _, unit in (found[:-1] if family == "hidden" else found)]
    return order


def _removal_order(gates: Gates, kept: Masks, sparser: Masks) -> list[Unit]:
    """Units to try to remove, least important first.

    First those that the shift on the sparser side of the target removes, then all fine units, last the hidden
    dimensions (where the fine units that are left are all too large for the gap).
    """
    first: list[tuple[float, str, tuple[int, ...]]] = []
    then: list[tuple[float, str, tuple[int, ...]]] = []
    last: list[tuple[float, str, tuple[int, ...]]] = []
    for family, value in kept.items():
        score = gates.importance(family)
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


def _exchange(gates: Gates, masks: Masks, order: list[Unit], target: float, epsilon: float) -> Masks | None:
    """Remove one unit more than fits and give FFN dimensions back, the most important first; ``None``: no luck.

    Small models need it: what is left after the FFN dimensions are gone may be too coarse for the gap.
    """
    if masks.intermediate is None:
        return None
    worth, kept = gates.importance("intermediate"), gates.kept_value("intermediate")
    gone = gates.present("intermediate") & (masks.intermediate == 0)
    ranked = torch.where(gone, worth, -torch.inf).flatten().argsort(descending=True)[: int(gone.sum())]

    def given_back(candidate: Masks, count: int) -> Masks:
        values = dict(candidate.items())
        inner = values["intermediate"].flatten().scatter(0, ranked[:count], kept.flatten()[ranked[:count]])
        return Masks(**values | {"intermediate": inner.view_as(kept)})

    for unit in order:
        if unit[0] == "intermediate" or getattr(masks, unit[0])[unit[1]] == 0:
            continue
        candidate = _without(masks, unit)
        count = bisect.bisect_left(
            range(len(ranked)), -target, key=lambda count: -gates.cost.removed(given_back(candidate, count))
        )
        for close in (given_back(candidate, count), given_back(candidate, max(count - 1, 0))):
            if abs(gates.cost.removed(close) - target) <= epsilon:
                return close
    return None


def _without(masks: Masks, unit: Unit) -> Masks:
    family, index = unit

    def zeroed(value: Tensor) -> Tensor:
        value = value.clone()
        value[index] = 0.0
        return value

    values = dict(masks.items())
    return Masks(**{name: zeroed(value) if name == family else value for name, value in values.items()})
