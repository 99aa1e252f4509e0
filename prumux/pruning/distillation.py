"""Distillation from a teacher: which layers teach which, and the two losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prumux.errors import UserError, first_line

LAYER_MAP = "layer_map.safetensors"  # beside a model that was taught with one
TAUGHT_LAYERS = 4  # layers of the teacher that are matched in versions 3 to 6
VERSIONS = (2, 3, 4, 5, 6)


class LayerMap(nn.Module):
    """Linear map from the student's stream to the teacher's, the identity at the start (CoFi section 3.2)."""

    def __init__(self, kept_hidden: list[int] | None, student_size: int, teacher_size: int) -> None:
        """``kept_hidden`` [student_size]: the teacher dimension that each student dimension was; ``None`` if all."""
        super().__init__()
        self.linear = nn.Linear(student_size, teacher_size, bias=False)
        index = torch.arange(student_size) if kept_hidden is None else torch.tensor(kept_hidden)
        if int(index.max()) >= teacher_size:
            raise ValueError(
                f"the student's hidden size {int(index.max()) + 1} exceeds the teacher's {teacher_size}: "
                "name a teacher of the student's original hidden size"
            )
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[index, torch.arange(student_size)] = 1.0

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., student_size] -> [..., teacher_size]."""
        return self.linear(hidden)

    def save(self, folder: Path, left: Sequence[int]) -> None:
        """Write the columns ``left`` beside a model that has these of the student's dimensions."""
        columns = self.linear.weight.detach()[:, list(left)].cpu().contiguous()
        save_file({"weight": columns}, folder / LAYER_MAP)

    def load(self, folder: Path) -> bool:
        """Go on from the map that was saved beside a model, if there is one, for a teacher of this width.

        Raises:
            UserError: a file that can't be read.
        """
        file = folder / LAYER_MAP
        if not file.is_file():
            return False
        try:
            weight = load_file(file)["weight"]
        except (OSError, KeyError, SafetensorError) as error:
            raise UserError(
                f"can't read {file} ({first_line(error)}): delete it, or the model beside it"
            ) from error
        if weight.shape != self.linear.weight.shape:
            return False
        with torch.no_grad():
            self.linear.weight.copy_(weight)
        return True


def teacher_layers(version: int, num_layers: int) -> list[int]:
    """Which of the teacher's ``num_layers`` layers (0-based) teach in this step (METHOD in docs/method.md).

    Versions 5 and 6 draw from PyTorch's generator.
    """
    count = min(TAUGHT_LAYERS, num_layers)
    spread = [(i + 1) * num_layers // count - 1 for i in range(count)]
    if version == 2:
        return list(range(num_layers))
    if version in (3, 4):
        return spread
    if version == 5:
        return sorted(torch.randperm(num_layers)[:count].tolist())
    if version == 6:
        starts = [0, *(last + 1 for last in spread[:-1])]
        if num_layers >= 3 * TAUGHT_LAYERS:
            starts[0] = 2  # the authors never take the two lowest layers
        return [int(torch.randint(low, high + 1, ())) for low, high in zip(starts, spread, strict=True)]
    raise ValueError(f"layer_distill_version is {version}, choose one of {VERSIONS}")


def align(version: int, distances: Tensor, taught: list[int], alive: list[bool]) -> list[int | None]:
    """Which student layer learns from each teacher layer.

    Args:
        distances: mean squared error ``[teacher layers taught, student layers]``.
        taught: the teacher layers' indices.
        alive: which student layers survive; removed ones are never matched (the authors' code filters in the order of
            the losses instead of the layers and does match them). When none survives, all are candidates.

    Returns:
        Per taught layer the student layer, or ``None`` when none is left for it.
    """
    if version == 2:
        return [layer if alive[layer] else None for layer in taught]
    if version == 3:
        return distances.argmin(dim=1).tolist()
    candidates = [layer for layer, lives in enumerate(alive) if lives] or list(range(len(alive)))
    matched: list[int | None] = []
    limit = len(alive)
    for row in reversed(range(len(taught))):  # from the top down, so that the order of the layers is kept
        below = [layer for layer in candidates if layer < limit]
        if below:
            limit = min(below, key=lambda layer: distances[row, layer].item())
        # with nothing left below, the lowest match teaches again, as in the authors' code
        matched.append(limit)
    return matched[::-1]


def mean_squared_error(a: Tensor, b: Tensor, attended: Tensor | None) -> Tensor:
    """Mean over the attended positions ``[B, L]`` and all dimensions of ``a``, ``b`` [B, L, D]."""
    a, b = a.float(), b.float()
    if attended is None:
        return nn.functional.mse_loss(a, b)
    per_position = (a - b).square().mean(-1)
    return (per_position * attended).sum() / attended.sum()


def layer_distillation_loss(
    student: tuple[Tensor, ...],
    teacher: tuple[Tensor, ...],
    layer_map: nn.Module,
    *,
    version: int,
    alive: list[bool],
    attended: Tensor | None = None,
) -> Tensor:
    """``sum_j MSE(W h_S[m(j)], h_T[j])`` over the taught layers (CoFi eq. 4).

    Args:
        student, teacher: hidden states, encoder input first, then every layer's output, each ``[B, L, D]``.
        layer_map: the student's ``W``.
        alive: which student layers survive, see :func:`align`.
        attended: bool ``[B, L]``; positions that hold no token don't count.
    """
    outputs, targets = student[1:], teacher[1:]
    taught = teacher_layers(version, len(targets))
    if version == 2:
        matched = align(version, torch.empty(0), taught, alive)
    else:
        with torch.no_grad():
            mapped = [layer_map(hidden) for hidden in outputs]
            distances = torch.stack(
                [torch.stack([mean_squared_error(m, targets[t], attended) for m in mapped]) for t in taught]
            )
            matched = align(version, distances.cpu(), taught, alive)
    pairs = [(t, s) for t, s in zip(taught, matched, strict=True) if s is not None]
    terms = [mean_squared_error(layer_map(outputs[s]), targets[t], attended) for t, s in pairs]
    return torch.stack(terms).sum() if terms else outputs[-1].sum() * 0.0


def state_distillation_loss(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Squared error of every token's vector, as a share of the teacher's own variance: 1 is what a constant reaches.

    Args:
        student: demultiplexed vectors ``[R, L, D]``. teacher: last hidden states of an unmultiplexed model, as large.
        counted: ``[R, L]``, 1 at tokens.
    """
    student, teacher, weights = student.float(), teacher.float(), counted.float()  # sums of a whole batch
    count = weights.sum().clamp_min(1)
    mean = (teacher * weights.unsqueeze(-1)).sum((0, 1)) / count  # (D,)
    spread = ((teacher - mean).square().mean(-1) * weights).sum()
    error = ((student - teacher).square().mean(-1) * weights).sum()
    return error / spread.clamp_min(torch.finfo(teacher.dtype).tiny)


def logit_distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over rows ``[R, C]``; MSE for one output."""
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        return nn.functional.mse_loss(student, teacher)
    return temperature**2 * nn.functional.kl_div(
        nn.functional.log_softmax(student / temperature, dim=-1),
        nn.functional.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
