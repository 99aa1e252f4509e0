"""`ScoreGates`: units ranked by the gradient of the predictions' loss; L0 gates can start from the same ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from prumux.models.configuration import PrumuxConfig
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.pruning.accounting import Cost
from prumux.pruning.gates import Gates
from prumux.pruning.l0 import L0Gates, families_of
from prumux.pruning.masks import Masks
from prumux.pruning.snapping import bracket, on_cpu

SCORED = ("head", "intermediate", "hidden")  # whole blocks go when their last head or dimension does
DECAY = 0.98  # of the running mean of the scores, per look
LOOK_EVERY = 4  # steps between looks at the gradient
SCALE = 2.0**10  # of the loss, so that float16 holds the gradients of the lower layers; exact in other dtypes
TINY = 1e-12
ROUNDING = 1e-9  # a third of 12 units is 4, not 3


def unit_parameters(config: PrumuxConfig, family: str) -> int:
    """Prunable parameters that go with one unit of the dense encoder, biases left out."""
    width, inner = config.dense_hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    return {
        "head": 4 * width * config.head_dim,
        "intermediate": 2 * width,
        "hidden": config.num_hidden_layers * (4 * heads + 2 * inner),
    }[family]


class ScoreGates(Gates):
    """Keeps the units with the largest gradient per parameter (GRAIN, arXiv 2212.07634, section 3).

    The score of a unit is the running mean of ``|dL/dz|`` at its mask ``z``, where ``L`` is the loss of the predictions
    alone: what distils hidden states trains the weights, but has no say in the structure. A removed unit keeps its
    weights and its score, and may come back.
    """

    looks: Tensor
    steps: Tensor

    def __init__(
        self,
        config: PrumuxConfig,
        *,
        pruning_type: str = "structured_heads+structured_mlp+hidden",
        cost: Cost | None = None,
    ) -> None:
        """Masks for every head, FFN dimension and hidden dimension that ``pruning_type`` names, see ``families_of``.

        Raises:
            ValueError: an unknown pruning type, or one without any of them.
        """
        families = tuple(family for family in families_of(pruning_type) if family in SCORED)
        if not families:
            raise ValueError(f"pruning_type '{pruning_type}' names none of: {', '.join(SCORED)}")
        super().__init__(config, families, cost)
        for family, size in self.sizes.items():
            self.register_buffer(f"score_{family}", torch.zeros(size))
            self.register_buffer(f"mask_{family}", torch.ones(size))
        self.register_buffer("looks", torch.zeros((), dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._leaves: dict[str, Tensor] = {}

    def score(self, family: str) -> Tensor:
        """Running mean of ``|dL/dz|``."""
        return self.get_buffer(f"score_{family}")

    def importance(self, family: str) -> Tensor:
        """Logarithm of the score per parameter."""
        return ((self.score(family) + TINY) / unit_parameters(self.config, family)).log() + 20

    def masks(self) -> Masks:
        """The structure of now."""
        return Masks(**{family: self.get_buffer(f"mask_{family}").clone() for family in self.sizes})

    def sample(self) -> Masks:
        if int(self.steps) % LOOK_EVERY:
            return self.masks()
        self._leaves = {family: mask.requires_grad_() for family, mask in self.masks().items()}
        return Masks(**self._leaves)

    def observe(self, loss: Tensor) -> None:
        if self._leaves:
            leaves, self._leaves = self._leaves, {}
            gradients = torch.autograd.grad(
                SCALE * loss,
                list(leaves.values()),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )  # a family of which nothing is left is not used
            if all(bool(gradient.isfinite().all()) for gradient in gradients):  # as a GradScaler skips a step
                self.add(leaves.keys(), [gradient.float() / SCALE for gradient in gradients])
        self.steps += 1

    @torch.no_grad()
    def add(self, families: Iterable[str], gradients: Iterable[Tensor]) -> None:
        """Take ``dL/dz`` of one batch into the running mean.

        In a block of which nothing is left no unit has a gradient: they keep their scores.
        """
        self.looks += 1
        weight = max(1 - DECAY, 1 / int(self.looks))
        for family, gradient in zip(families, gradients, strict=True):
            score = self.score(family)
            alive = self.get_buffer(f"mask_{family}").any(-1, keepdim=True)
            score += weight * alive * (gradient.abs().to(score) - score)

    @torch.no_grad()
    def deterministic(self, shift: float | None = None) -> Masks:
        if shift is None:
            return self.masks()
        masks = {}
        for family in self.sizes:
            kept = (self.importance(family) + shift > 0).float()
            if family == "hidden" and not kept.any():
                kept[self.importance(family).argmax()] = 1.0  # a model without a residual stream is none
            masks[family] = kept
        return Masks(**masks)

    def expected_sparsity(self) -> Tensor:
        return torch.tensor(self.cost.removed(self.masks()))

    @torch.no_grad()
    def penalty(self, target: float) -> tuple[Tensor, Tensor]:
        """No term in the loss: the structure itself is moved to ``target``."""
        if int(self.steps) % LOOK_EVERY == 0 and int(self.looks):
            for family, mask in self.deterministic(self._shift(target)).items():
                self.get_buffer(f"mask_{family}").copy_(mask)
        return torch.zeros(()), self.expected_sparsity()

    def _shift(self, target: float) -> float:
        """The largest structure that is sparser than ``target``."""
        return bracket(on_cpu(self), target)[0]

    def schedule(self, share: float) -> float:
        return 1 - (1 - share) ** 3


class UniformGates(ScoreGates):
    """Keeps the same share of every layer's heads and FFN dimensions and of the hidden dimensions, the best by score.

    For encoders of which several copies shall stand side by side, see ``models/partition.py``.
    """

    def __init__(self, config: PrumuxConfig) -> None:
        super().__init__(config)

    def narrow(self, copies: int) -> float:
        """Sparsity of the largest structure of which ``copies`` fit into the dense encoder side by side.

        The smallest share of the residual stream counts, see ``BinaryHadamard``.

        Raises:
            ValueError: fewer heads or dimensions than copies.
        """
        for what, units in zip(
            ("heads", "FFN dimensions", "hidden dimensions"), self.sizes.values(), strict=True
        ):
            if units[-1] < copies:
                raise ValueError(
                    f"{copies} copies don't fit side by side, the encoder has {units[-1]} {what}: give a smaller "
                    "--num_instances"
                )
        width = self.config.hidden_size
        last = width - (copies - 1) * math.ceil(width / copies)
        return self.cost.removed(self._uniform((last if last > 0 else width // copies) / width))

    @torch.no_grad()
    def deterministic(self, shift: float | None = None) -> Masks:
        return self.masks() if shift is None else self._uniform(1 / (1 + math.exp(-shift)))

    def _shift(self, target: float) -> float:
        """``target`` is the sparsity of a structure of this kind: that one."""
        return bracket(on_cpu(self), target)[1]

    def _uniform(self, share: float) -> Masks:
        masks = {}
        for family, size in self.sizes.items():
            units = size[-1]
            count = max(1, int(share * units + ROUNDING))
            score = self.score(family).view(-1, units)
            order = score.argsort(dim=1, descending=True, stable=True)[:, :count]
            masks[family] = torch.zeros_like(score).scatter_(1, order, 1.0).view(size)
        return Masks(**masks)


def fisher_scores(
    scores: ScoreGates, model: PrumuxPreTrainedModel, batches: Iterable[dict[str, Tensor]]
) -> None:
    """Score every unit by the mean square of ``dL/dz`` at ``z = 1``: the diagonal of the Fisher information.

    ``L`` is the task's loss on each of ``batches`` (Kwon et al., arXiv 2204.09656, section 4.2).
    """
    training, device = model.training, model.device
    model.eval()
    for batch in batches:
        leaves = {family: mask.requires_grad_() for family, mask in scores.masks().to(device).items()}
        batch = {name: value.to(device) for name, value in batch.items()}
        loss = model(**batch, masks=Masks(**leaves)).task_loss
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        scores.add(leaves.keys(), [gradient.square() for gradient in gradients])
    model.train(training)


def start_from(gates: L0Gates, scores: ScoreGates, target: float) -> None:
    """Move L0 gates towards the structure that ``scores`` would keep at ``target``: a one-shot first guess.

    A unit's log alpha becomes its log score's distance from the threshold, in standard deviations of its family;
    families that are not scored stay as they are.
    """
    _, threshold = bracket(on_cpu(scores), target)
    with torch.no_grad():
        for family in scores.sizes:
            if family in gates.log_alpha:
                distance = scores.importance(family) + threshold
                spread = distance[gates.present(family).to(distance.device)].std(correction=0)
                gates.log_alpha[family].copy_(distance / spread.clamp_min(TINY))
    gates.clamp_()
