"""`L0Gates`: learned hard-concrete gates over the structure, and the Lagrangian that drives their sparsity."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prumux.models.configuration import PrumuxConfig
from prumux.pruning.accounting import Cost
from prumux.pruning.gates import Gates
from prumux.pruning.masks import Masks

STRETCH_LOW, STRETCH_HIGH = (
    -0.1,
    1.1,
)  # the interval to which the concrete variable is stretched (Louizos et al. 2018)
TEMPERATURE = 2 / 3
NOISE_MARGIN = 1e-6
LOG_ALPHA_BOUNDS = (math.log(1e-2), math.log(1e2))
LOG_ALPHA_COARSE = 10.0  # initial log alpha of coarse units and hidden dimensions: certainly kept
SOFT_SHARPNESS = 0.8  # CoFi's factor in the soft value of a kept unit
LOG_ALPHA_NOISE = 0.01

PRUNING_TYPES: dict[str, tuple[str, ...]] = {
    "structured_heads": ("head",),
    "structured_mlp": ("intermediate",),
    "hidden": ("hidden",),
    "layer": ("head_layer", "mlp"),
    "head": ("head",),
    "head_layer": ("head_layer",),
    "intermediate": ("intermediate",),
    "mlp": ("mlp",),
}


def families_of(pruning_type: str) -> tuple[str, ...]:
    """Mask families named by CoFi's ``+``-joined pruning types, for instance ``structured_heads+layer``.

    Raises:
        ValueError: an unknown part.
    """
    families: list[str] = []
    for part in pruning_type.split("+"):
        if part not in PRUNING_TYPES:
            raise ValueError(
                f"pruning_type has '{part}', join some of these with '+': {', '.join(PRUNING_TYPES)}"
            )
        families += [family for family in PRUNING_TYPES[part] if family not in families]
    return tuple(families)


def nonzero_probability(log_alpha: Tensor) -> Tensor:
    """``P(z != 0)`` of the stretched hard-concrete gate (Louizos et al. 2018, eq. 12)."""
    edge = -STRETCH_LOW / (STRETCH_HIGH - STRETCH_LOW)
    zero = torch.sigmoid(TEMPERATURE * math.log(edge / (1 - edge)) - log_alpha)
    return 1 - zero.clamp(NOISE_MARGIN, 1 - NOISE_MARGIN)


def sample_gate(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """A hard-concrete sample for ``noise`` uniform in (0, 1) (Louizos et al. 2018, eqs. 10 and 11)."""
    s = torch.sigmoid((torch.log(noise) - torch.log1p(-noise) + log_alpha) / TEMPERATURE)
    return (s * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def soft_value(log_alpha: Tensor) -> Tensor:
    """The value in (0, 1) that a kept unit carries at evaluation."""
    return torch.sigmoid(log_alpha / TEMPERATURE * SOFT_SHARPNESS)


def evaluation_gate(log_alpha: Tensor) -> Tensor:
    """One layer's units ``[K]`` at evaluation: the expected number of zeros, at the smallest soft values."""
    soft = soft_value(log_alpha)
    zeros = round(log_alpha.numel() - nonzero_probability(log_alpha).sum().item())
    if zeros > 0:
        soft = soft.clone()
        soft[soft.topk(zeros, largest=False).indices] = 0.0
    return soft


class L0Gates(Gates):
    """Gates over the structure of one encoder (paper section 3.1, phase 3; CoFi section 3).

    Attributes:
        log_alpha: per family, shaped like that family of :class:`Masks`.
        lambda_1, lambda_2: Lagrange multipliers; train them by gradient ascent (``maximize=True``).
    """

    def __init__(
        self,
        config: PrumuxConfig,
        *,
        pruning_type: str = "structured_heads+structured_mlp+hidden+layer",
        droprate_init: float = 0.5,
        cost: Cost | None = None,
    ) -> None:
        """Gates for every unit that a model of ``config`` has.

        Args:
            pruning_type: which families to gate, see :func:`families_of`.
            droprate_init: initial probability scale of dropping an FFN dimension, in (0, 1).

        Raises:
            ValueError: an unknown pruning type.
        """
        super().__init__(config, families_of(pruning_type), cost)
        fine = math.log(1 - droprate_init) - math.log(droprate_init)
        self.log_alpha = nn.ParameterDict()
        for family, size in self.sizes.items():
            mean = fine if family == "intermediate" else LOG_ALPHA_COARSE
            self.log_alpha[family] = nn.Parameter(torch.normal(mean, LOG_ALPHA_NOISE, size))
        self.lambda_1 = nn.Parameter(torch.zeros(()))
        self.lambda_2 = nn.Parameter(torch.zeros(()))

    def importance(self, family: str) -> Tensor:
        return soft_value(self.log_alpha[family].detach())

    def kept_value(self, family: str) -> Tensor:
        return soft_value(self.log_alpha[family].detach())

    def multipliers(self) -> Iterator[nn.Parameter]:
        yield self.lambda_1
        yield self.lambda_2

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep every log alpha where its gradient does not vanish; call after each optimizer step."""
        for value in self.log_alpha.values():
            value.clamp_(*LOG_ALPHA_BOUNDS)

    def sample(self, noise: Masks | None = None) -> Masks:
        """Masks for one training step, differentiable in log alpha.

        Args:
            noise: uniform noise per family; drawn from PyTorch's generator when ``None``.
        """
        masks = {}
        for family, value in self.log_alpha.items():
            drawn = getattr(noise, family) if noise is not None else None
            if drawn is None:
                drawn = torch.empty_like(value).uniform_(NOISE_MARGIN, 1 - NOISE_MARGIN)
            masks[family] = sample_gate(value, drawn)
        return Masks(**masks)

    @torch.no_grad()
    def deterministic(self, shift: float | None = None) -> Masks:
        """Evaluation masks; ``shift`` is added to every log alpha where it decides what is kept."""
        shift = shift or 0.0
        config = self.config
        units = {"head": config.heads_per_layer, "intermediate": config.intermediate_per_layer}
        masks = {}
        for family, value in self.log_alpha.items():
            rows = value[None] if family == "hidden" else value if value.dim() == 2 else value[:, None]
            kept = torch.zeros_like(rows)
            for layer, size in enumerate(units.get(family, [rows.shape[1]] * len(rows))):
                if size:
                    kept[layer, :size] = evaluation_gate(rows[layer, :size] + shift)
            if family == "hidden" and not kept.any():
                kept[0, value.argmax()] = 1.0  # a model without a residual stream is none
            masks[family] = torch.where(kept.view_as(value) != 0, soft_value(value), 0.0)
        return Masks(**masks)

    def expected_cost(self) -> Tensor:
        """Expected cost of what is left, scalar, differentiable (CoFi eq. 3 for parameters, biases counted exactly)."""
        config = self.config
        probability = {family: nonzero_probability(value) for family, value in self.log_alpha.items()}
        hidden = probability["hidden"].sum() if "hidden" in probability else float(config.hidden_size)
        total = torch.zeros((), device=self.lambda_1.device)
        later = total  # that any attention block follows
        for layer in reversed(range(config.num_hidden_layers)):
            heads, inner = config.heads_per_layer[layer], config.intermediate_per_layer[layer]
            if inner:
                kept = (
                    probability["intermediate"][layer, :inner].sum()
                    if "intermediate" in probability
                    else inner
                )
                there = probability["mlp"][layer] if "mlp" in probability else 1.0
                total = total + there * self.cost.ffn(hidden, kept, later)
            if heads:
                each = probability["head"][layer, :heads] if "head" in probability else torch.ones(heads)
                there = probability["head_layer"][layer] if "head_layer" in probability else 1.0
                total = total + there * self.cost.attention(hidden, each.sum(), later)
                later = 1 - (1 - later) * (1 - there * (1 - (1 - each).prod()))
        return total

    def expected_sparsity(self) -> Tensor:
        return 1 - self.expected_cost() / self.cost.dense

    def penalty(self, target: float) -> tuple[Tensor, Tensor]:
        """``lambda_1 (s - t) + lambda_2 (s - t)^2`` and the expected sparsity ``s`` (CoFi section 3.3)."""
        expected = self.expected_sparsity()
        gap = expected - target
        return self.lambda_1 * gap + self.lambda_2 * gap**2, expected
