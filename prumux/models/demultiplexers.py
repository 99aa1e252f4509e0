"""Demultiplexers: one hidden sequence -> N of them. One small class per variant and the table of their names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN


class Demultiplexer(nn.Module):
    """Base; a new variant is a class and an entry in :data:`DEMULTIPLEXERS`.

    ``input_size`` is the width of the residual stream, ``output_size`` the width of an unpruned model.

    Attributes:
        prefix_length: tokens the variant puts before every row (N for ``index``, else 0).
    """

    prefix_length = 0

    def forward(self, hidden: Tensor, prefix: Tensor | None, scale: Tensor | None = None) -> Tensor:
        """Separate the instances.

        Args:
            hidden: encoder output at the P positions to read, ``[G, P, D]``.
            prefix: encoder output at the prefix positions, ``[G, N, D]``; ``None`` when ``prefix_length`` is 0.
            scale: the hidden mask ``[D]``, multiplied with everything read at stream width.

        Returns:
            ``[G, N, P, output_size]``.
        """
        raise NotImplementedError


def _joint(linear: nn.Linear, key: Tensor, hidden: Tensor) -> Tensor:
    """``linear(concat(key, hidden))`` for every pair, with the key half computed once per instance.

    key [G or 1, N, D], hidden [G, P, D] -> [G, N, P, output]
    """
    width = hidden.shape[-1]
    key_half = nn.functional.linear(key, linear.weight[:, :width], linear.bias)
    hidden_half = nn.functional.linear(hidden, linear.weight[:, width:])
    return key_half.unsqueeze(2) + hidden_half.unsqueeze(1)


class IndexPos(Demultiplexer):
    """A learned key per instance, joined to the hidden state and passed through a small residual MLP.

    ``u = drop(act(W_1 [k_i, h]))``; ``u = u + drop(act(W_j u))`` for layers 2..M-1; ``out = u + LN(act(W_pre u))``
    (MUX-PLM's RSA demultiplexer; PruMUX's default).
    """

    def __init__(
        self,
        *,
        num_instances: int,
        input_size: int,
        output_size: int,
        num_layers: int,
        activation: str,
        dropout: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(num_instances, input_size))
        self.first = nn.Linear(2 * input_size, output_size)
        self.inner = nn.ModuleList(nn.Linear(output_size, output_size) for _ in range(num_layers - 2))
        self.last = nn.Linear(output_size, output_size)
        self.norm = nn.LayerNorm(output_size, eps=layer_norm_eps)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, prefix: Tensor | None, scale: Tensor | None = None) -> Tensor:
        keys = self.keys if scale is None else self.keys * scale
        hidden = hidden if scale is None else hidden * scale
        u = self.dropout(self.activation(_joint(self.first, keys.unsqueeze(0), hidden)))
        for layer in self.inner:
            u = u + self.dropout(self.activation(layer(u)))
        return u + self.norm(self.activation(self.last(u)))


class IndexPosChain(Demultiplexer):
    """The chain by which the authors' vocabulary head reads ``index_pos``: two layers with LayerNorms, no skips.

    ``u = LN_1(drop(act(W_1 [k_i, h])))``; ``u = LN_2(drop(act(W_2 u)))``; ``out = LN(act(W_pre u))``, whatever the
    depth of the demultiplexer that classifies.
    """

    def __init__(
        self,
        *,
        num_instances: int,
        input_size: int,
        output_size: int,
        activation: str,
        dropout: float,
        layer_norm_eps: float,
        **_: object,
    ) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(num_instances, input_size))
        self.first = nn.Linear(2 * input_size, output_size)
        self.second = nn.Linear(output_size, output_size)
        self.last = nn.Linear(output_size, output_size)
        self.norms = nn.ModuleList(nn.LayerNorm(output_size, eps=layer_norm_eps) for _ in range(2))
        self.norm = nn.LayerNorm(output_size, eps=layer_norm_eps)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, prefix: Tensor | None, scale: Tensor | None = None) -> Tensor:
        keys = self.keys if scale is None else self.keys * scale
        hidden = hidden if scale is None else hidden * scale
        u = self.norms[0](self.dropout(self.activation(_joint(self.first, keys.unsqueeze(0), hidden))))
        u = self.norms[1](self.dropout(self.activation(self.second(u))))
        return self.norm(self.activation(self.last(u)))


class Index(Demultiplexer):
    """DataMUX's index embeddings: the key of instance i is the encoder's output at its marker in the prefix.

    ``out = LN(act(W [k_i, h]))``
    """

    def __init__(
        self,
        *,
        num_instances: int,
        input_size: int,
        output_size: int,
        activation: str,
        layer_norm_eps: float,
        **_: object,
    ) -> None:
        super().__init__()
        self.prefix_length = num_instances
        self.first = nn.Linear(2 * input_size, output_size)
        self.norm = nn.LayerNorm(output_size, eps=layer_norm_eps)
        self.activation = ACT2FN[activation]

    def forward(self, hidden: Tensor, prefix: Tensor | None, scale: Tensor | None = None) -> Tensor:
        assert prefix is not None
        if scale is not None:
            prefix, hidden = prefix * scale, hidden * scale
        return self.norm(self.activation(_joint(self.first, prefix, hidden)))


class Mlp(Demultiplexer):
    """DataMUX's MLP demultiplexer: one layer per instance, then a shared one.

    ``out = LN(act(W LN_i(act(W_i drop(h)))))``
    """

    def __init__(
        self,
        *,
        num_instances: int,
        input_size: int,
        output_size: int,
        activation: str,
        dropout: float,
        layer_norm_eps: float,
        **_: object,
    ) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(input_size, output_size) for _ in range(num_instances))
        self.norms = nn.ModuleList(
            nn.LayerNorm(output_size, eps=layer_norm_eps) for _ in range(num_instances)
        )
        self.last = nn.Linear(output_size, output_size)
        self.norm = nn.LayerNorm(output_size, eps=layer_norm_eps)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, prefix: Tensor | None, scale: Tensor | None = None) -> Tensor:
        hidden = self.dropout(hidden if scale is None else hidden * scale)
        separated = [norm(self.activation(w(hidden))) for w, norm in zip(self.first, self.norms, strict=True)]
        return self.norm(self.activation(self.last(torch.stack(separated, dim=1))))


DEMULTIPLEXERS: dict[str, type[Demultiplexer]] = {"index_pos": IndexPos, "index": Index, "mlp": Mlp}
# Other published names of the same thing: MUX-PLM's paper calls index_pos RSA.
DEMUXING_ALIASES = {"rsa": "index_pos", "rsa_demux": "index_pos", "index_embeddings": "index"}
# How the vocabulary is read with ``separate_retrieval``.
RETRIEVAL_DEMULTIPLEXERS: dict[str, type[Demultiplexer]] = {**DEMULTIPLEXERS, "index_pos": IndexPosChain}
