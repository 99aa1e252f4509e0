"""Multiplexers: N embedded sequences -> one mixture. One small class per variant and the table of their names."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prumux.models.encoder import EncoderLayer
from prumux.pruning.masks import LayerMasks, StreamMask


class Multiplexer(nn.Module):
    """Base: holds the per-instance transformation ``vectors``, trained only when ``learned``.

    A new variant is a class with ``initial_vectors`` and ``forward`` and an entry in :data:`MULTIPLEXERS`; it is built
    with the keywords of ``build_multiplexer``.
    """

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

    def linear(self) -> Tensor | None:
        """The maps whose sum over the instances is the mixture: ``[N, D]``, or matrices ``[N, out, in]``.

        ``None`` where the mixture is something else; the fast forward then calls the multiplexer itself.
        """
        return None

    def forward(
        self, embedded: Tensor, attended: Tensor | None = None, stream: StreamMask | None = None
    ) -> Tensor:
        """Mix ``embedded`` [G, N, L, D] into [G, L, D].

        Args:
            attended: bool ``[G, N, L]``, each row's tokens; ``None`` for all.
            stream: the hidden mask; what comes out is multiplied with it by the caller.
        """
        raise NotImplementedError


class Hadamard(Multiplexer):
    """Mean over instances of the elementwise product with that instance's vector (paper section 2.2)."""

    def linear(self) -> Tensor | None:
        return self.vectors / self.vectors.shape[0]

    def forward(
        self, embedded: Tensor, attended: Tensor | None = None, stream: StreamMask | None = None
    ) -> Tensor:
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
        starts = [i * chunk for i in range(instances + 1)]
        if starts[-2] >= width:  # the authors' chunks would leave the last instances without any dimension
            starts = [i * width // instances for i in range(instances + 1)]
        vectors = torch.zeros(instances, width)
        for i in range(instances):
            vectors[i, max(0, starts[i] - margin) : min(width, starts[i + 1] + margin)] = 1
        return vectors


class RandomOrtho(Multiplexer):
    """A random orthogonal matrix per instance; summed and divided by ``sqrt(N)`` so that the scale is kept."""

    def __init__(self, *, num_instances: int, hidden_size: int, learned: bool, **_: object) -> None:
        super().__init__((num_instances, hidden_size, hidden_size), learned=learned)

    def initial_vectors(self) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(self.vectors.shape))
        # The sign correction makes the distribution uniform (Haar) instead of QR's own.
        return q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)

    def linear(self) -> Tensor:
        return self.vectors / math.sqrt(self.vectors.shape[0])

    def forward(
        self, embedded: Tensor, attended: Tensor | None = None, stream: StreamMask | None = None
    ) -> Tensor:
        return torch.einsum("gnld,ned->gle", embedded, self.vectors) / math.sqrt(self.vectors.shape[0])


class RandomOrthoLowRank(RandomOrtho):
    """Matrices of rank ``D / N`` that read disjoint subspaces: ``U H_i^T`` with two random rotations U and H.

    ``H_i`` has the i-th chunk of H's columns and zeros elsewhere (MUX-PLM).
    """

    def initial_vectors(self) -> Tensor:
        instances, width, _ = self.vectors.shape
        if instances > width:
            raise ValueError(
                f"random_ortho_low_rank cuts {width} hidden dimensions into {instances} subspaces: "
                "num_instances must not exceed the hidden size"
            )
        rank = width // instances
        q, r = torch.linalg.qr(torch.randn(2, width, width))
        turn, read = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
        matrices = torch.zeros(instances, width, width)
        for i in range(instances):
            chunk = slice(i * rank, (i + 1) * rank)
            matrices[i] = turn[:, chunk] @ read[:, chunk].T
        return matrices


class GaussianAttention(GaussianHadamard):
    """MUX-PLM's contextual multiplexer.

    A Transformer layer over each row (plus its input), the gaussian vectors, a Transformer layer across the instances
    at each position (plus its input), the mean over the instances.
    """

    gain: Tensor

    def __init__(
        self,
        *,
        num_instances: int,
        hidden_size: int,
        norm: float,
        learned: bool,
        layer: Callable[[], EncoderLayer],
        **_: object,
    ) -> None:
        """``layer`` builds a layer of the encoder's dense shape."""
        super().__init__(num_instances=num_instances, hidden_size=hidden_size, norm=norm, learned=learned)
        self.rows, self.across = layer(), layer()
        self.register_buffer("gain", torch.ones(hidden_size))  # carries a soft hidden mask after compaction

    def linear(self) -> None:
        return None

    def forward(
        self, embedded: Tensor, attended: Tensor | None = None, stream: StreamMask | None = None
    ) -> Tensor:
        groups, _, length, width = embedded.shape
        dense = LayerMasks(True, True)
        rows = embedded.flatten(0, 1)  # (G * N, L, D)
        mask = None
        if (
            attended is not None
        ):  # a filled row to its first token: padding must not change what it adds to the mean
            first = torch.arange(length, device=attended.device) == 0
            mask = _somewhere(attended.flatten(0, 1), first)[:, None, None]
        context = (self.rows(rows, mask, dense, stream) + rows).view_as(embedded)
        turned = (context * self.vectors[:, None]).transpose(1, 2).flatten(0, 1)  # (G * L, N, D)
        if attended is not None:
            every = attended.new_ones(
                attended.shape[1]
            )  # the instances at a position without tokens, as the authors do
            mask = _somewhere(attended.transpose(1, 2).flatten(0, 1), every)[:, None, None]
        mixed = self.across(turned, mask, dense, stream) + turned
        return mixed.mean(1).view(groups, length, width) * self.gain


def _somewhere(attended: Tensor, places: Tensor) -> Tensor:
    """bool [X, Y] with the rows that attend to nothing attending to ``places`` (bool [Y]), as a softmax needs some."""
    return attended | (places & ~attended.any(-1, keepdim=True))


MULTIPLEXERS: dict[str, type[Multiplexer]] = {
    "gaussian_hadamard": GaussianHadamard,
    "binary_hadamard": BinaryHadamard,
    "random_ortho": RandomOrtho,
    "random_ortho_low_rank": RandomOrthoLowRank,
    "gaussian_attention_v2": GaussianAttention,
}
# Other published names of the same thing.
MUXING_ALIASES = {"contextual": "gaussian_attention_v2"}
