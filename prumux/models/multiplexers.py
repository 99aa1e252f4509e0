"""Multiplexers: N embedded sequences -> one mixture. One small class per variant and the table of their names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Multiplexer(nn.Module):
    """Base: holds the per-instance transformation ``vectors``, trained only when ``learned``."""

    vectors: Tensor

    def __init__(self, shape: tuple[int, ...], *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.vectors = nn.Parameter(torch.empty(shape))
        else:
            # A buffer, not a frozen parameter: loading or compaction can't make it trainable by accident.
            self.register_buffer("vectors", torch.empty(shape))

    def initial_vectors(self) -> Tensor:
        """Freshly drawn vectors, of the shape of ``vectors``."""
        raise NotImplementedError

    def forward(self, embedded: Tensor) -> Tensor:
        """Mix ``embedded`` [G, N, L, D] into [G, L, D]."""
        raise NotImplementedError


class Hadamard(Multiplexer):
    """Mean over instances of the elementwise product with that instance's vector (paper section 2.2)."""

    def forward(self, embedded: Tensor) -> Tensor:
        # einsum accumulates over N without materialising the [G, N, L, D] product
        return torch.einsum("gnld,nd->gld", embedded, self.vectors) / self.vectors.shape[0]


class GaussianHadamard(Hadamard):
    """Vectors ``norm * g / |g|`` with ``g`` standard normal."""

    def __init__(
        self, *, num_instances: int, hidden_size: int, norm: float, learned: bool, **_: object
    ) -> None:
        super().__init__((num_instances, hidden_size), learned=learned)
        self.norm = norm

    def initial_vectors(self) -> Tensor:
        gaussian = torch.randn(self.vectors.shape)
        return self.norm * gaussian / gaussian.norm(dim=-1, keepdim=True)


class BinaryHadamard(Hadamard):
    """0/1 vectors: the width is cut into N chunks; neighbours overlap by ``epsilon / 2`` of a chunk on each side."""

    def __init__(
        self, *, num_instances: int, hidden_size: int, epsilon: float, learned: bool, **_: object
    ) -> None:
        super().__init__((num_instances, hidden_size), learned=learned)
        self.epsilon = epsilon

    def initial_vectors(self) -> Tensor:
        instances, width = self.vectors.shape
        if instances > width:  # of new vectors only: a pruned model may be left with fewer dimensions
            raise ValueError(
                f"binary_hadamard cuts {width} hidden dimensions into {instances} chunks: "
                "num_instances must not exceed the hidden size"
            )
        chunk = math.ceil(width / instances)
        margin = math.ceil(chunk * self.epsilon / 2)
        vectors = torch.zeros(instances, width)
        for i in range(instances):
            vectors[i, max(0, i * chunk - margin) : min(width, (i + 1) * chunk + margin)] = 1
        return vectors


class RandomOrtho(Multiplexer):
    """A random orthogonal matrix per instance; summed and divided by ``sqrt(N)`` so that the scale is kept."""

    def __init__(self, *, num_instances: int, hidden_size: int, learned: bool, **_: object) -> None:
        super().__init__((num_instances, hidden_size, hidden_size), learned=learned)

    def initial_vectors(self) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(self.vectors.shape))
        # The sign correction makes the distribution uniform (Haar) instead of QR's own.
        return q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)

    def forward(self, embedded: Tensor) -> Tensor:
        return torch.einsum("gnld,ned->gle", embedded, self.vectors) / math.sqrt(self.vectors.shape[0])


MULTIPLEXERS: dict[str, type[Multiplexer]] = {
    "gaussian_hadamard": GaussianHadamard,
    "binary_hadamard": BinaryHadamard,
    "random_ortho": RandomOrtho,
}
