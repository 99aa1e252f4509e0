"""`Gates`: what every pruning criterion offers to training and to snapping; :class:`Masks` is all that leaves it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prumux.models.configuration import PrumuxConfig
from prumux.pruning.accounting import Cost
from prumux.pruning.masks import Masks


class Gates(nn.Module):
    """Base of the criteria that decide which units of one encoder are kept.

    Attributes:
        sizes: per family that may be pruned, the shape of that family of :class:`Masks`.
        cost: what the target is a share of; the parameters, or another cost.
    """

    def __init__(self, config: PrumuxConfig, families: tuple[str, ...], cost: Cost | None = None) -> None:
        super().__init__()
        self.config = config
        self.cost = cost or Cost(config)
        heads, inner = config.heads_per_layer, config.intermediate_per_layer
        shapes = {
            "head": (len(heads), max(heads, default=0)),
            "head_layer": (len(heads),),
            "intermediate": (len(inner), max(inner, default=0)),
            "mlp": (len(inner),),
            "hidden": (config.hidden_size,),
        }
        self.sizes: dict[str, tuple[int, ...]] = {family: shapes[family] for family in families}

    def sample(self) -> Masks:
        """Masks for one training step."""
        raise NotImplementedError

    def observe(self, loss: Tensor) -> None:
        """Look at the gradient of the prediction's ``loss`` under the masks that ``sample`` gave last."""

    def deterministic(self, shift: float | None = None) -> Masks:
        """Evaluation masks: those of now, or with ``shift`` others, the larger the more is kept."""
        raise NotImplementedError

    def importance(self, family: str) -> Tensor:
        """What a unit is worth, shaped like the family's mask and comparable between families."""
        raise NotImplementedError

    def present(self, family: str) -> Tensor:
        """Which places of the family's mask are units of the encoder: layers that have fewer are padded."""
        counts = {
            "head": self.config.heads_per_layer,
            "intermediate": self.config.intermediate_per_layer,
        }.get(family)
        size = self.sizes[family]
        if counts is None:
            return torch.ones(size, dtype=torch.bool)
        return torch.arange(size[-1]) < torch.tensor(counts)[:, None]

    def kept_value(self, family: str) -> Tensor:
        """The mask value in (0, 1] of each unit while it is kept."""
        return torch.ones(self.sizes[family])

    def expected_sparsity(self) -> Tensor:
        """Expected share of the dense encoder's cost that is gone, scalar."""
        raise NotImplementedError

    def penalty(self, target: float) -> tuple[Tensor, Tensor]:
        """What the loss gains for missing the sparsity ``target``, and the expected sparsity."""
        raise NotImplementedError

    def schedule(self, share: float) -> float:
        """Which share of the target holds after ``share`` of the warm-up."""
        return share

    def clamp_(self) -> None:
        """Called before each batch: keeps what is learned within its range."""
