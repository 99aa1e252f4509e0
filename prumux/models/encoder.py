"""The Transformer encoder: BERT's layers, each of which may have fewer heads or FFN dimensions, or no block at all.

Sub-modules carry BERT's names, so that BERT checkpoints load without a table of renamings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from prumux.pruning.masks import LayerMasks, StreamMask


def masked_layer_norm(norm: nn.LayerNorm, x: Tensor, keep: Tensor | None) -> Tensor:
    """LayerNorm over the kept dimensions only; removed ones come out as 0.

    Args:
        x: ``[..., D]``, 0 at the removed dimensions.
        keep: 0/1 ``[D]`` or ``None`` when all are kept.
    """
    if keep is None:
        return norm(x)
    count = keep.sum()
    centred = (x - x.sum(-1, keepdim=True) / count) * keep
    variance = centred.square().sum(-1, keepdim=True) / count
    return centred * torch.rsqrt(variance + norm.eps) * (norm.weight * keep) + norm.bias * keep


def read(x: Tensor, stream: StreamMask | None) -> Tensor:
    """What a block reads from the residual stream: ``x`` times the hidden mask."""
    return x if stream is None else x * stream.scale


class Embeddings(nn.Module):
    """Word + position + token type embeddings and LayerNorm."""

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        max_position_embeddings: int,
        type_vocab_size: int,
        pad_token_id: int | None,
        layer_norm_eps: float,
        dropout: float,
        position_offset: int = 0,
    ) -> None:
        super().__init__()
        self.position_offset = position_offset
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.position_embeddings = nn.Embedding(max_position_embeddings, hidden_size)
        self.token_type_embeddings = nn.Embedding(type_vocab_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words: Tensor,
        token_type_ids: Tensor | None,
        stream: StreamMask | None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Embed word vectors ``words`` [..., L, D] (unmasked); ``token_type_ids``, ``positions``: see ``finish``."""
        return self.finish(read(words, stream), token_type_ids, stream, positions)

    def finish(
        self,
        content: Tensor,
        token_type_ids: Tensor | None,
        stream: StreamMask | None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Add position and type to ``content`` [..., L, D] and normalise.

        Args:
            token_type_ids: ``[..., L]``, ``None`` for type 0.
            positions: ``[..., L]``, ``None`` for 0, 1, ... counted from ``position_offset``.
        """
        types = self.token_type_embeddings
        if positions is None:
            start = self.position_offset
            placed = self.position_embeddings.weight[start : start + content.shape[-2]]
        else:
            placed = self.position_embeddings(positions)
        added = placed + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        x = masked_layer_norm(self.LayerNorm, content + read(added, stream), stream.keep if stream else None)
        return self.dropout(x)


class SelfAttention(nn.Module):
    """Query, key and value projections of the layer's heads."""

    def __init__(self, *, hidden_size: int, num_heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = num_heads, head_dim, dropout
        self.query = nn.Linear(hidden_size, num_heads * head_dim)
        self.key = nn.Linear(hidden_size, num_heads * head_dim)
        self.value = nn.Linear(hidden_size, num_heads * head_dim)

    def forward(self, x: Tensor, attention_mask: Tensor | None, head: Tensor | None) -> Tensor:
        """x [G, L, D], attention_mask bool [G, 1, 1, L], head [H] -> context [G, L, H * head_dim]."""
        groups, length, _ = x.shape
        query, key, value = (
            projection(x)
            .view(groups, length, self.num_heads, self.head_dim)
            .transpose(1, 2)  # (G, H, L, head_dim)
            for projection in (self.query, self.key, self.value)
        )
        context = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=self.dropout if self.training else 0.0
        )
        if head is not None:
            context = context * head.view(1, -1, 1, 1)
        return context.transpose(1, 2).reshape(groups, length, self.num_heads * self.head_dim)


class ResidualOutput(nn.Module):
    """The projection that ends a block, its residual connection and LayerNorm.

    ``scale_bias``: does a soft hidden mask scale the bias too. The authors' pruned models scale the bias of the
    attention block but not that of the FFN; their checkpoints depend on it.
    """

    def __init__(
        self, *, input_size: int, hidden_size: int, layer_norm_eps: float, dropout: float, scale_bias: bool
    ) -> None:
        super().__init__()
        self.scale_bias = scale_bias
        self.dense = nn.Linear(input_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, inner: Tensor, residual: Tensor, block: Tensor | None, stream: StreamMask | None
    ) -> Tensor:
        """inner [G, L, input_size], residual [G, L, D], block: the block's coarse mask () -> [G, L, D]."""
        if stream is None or self.scale_bias:
            written = read(self.dense(inner), stream)
        else:
            bias = self.dense.bias if stream.keep is None else self.dense.bias * stream.keep
            written = nn.functional.linear(inner, self.dense.weight) * stream.scale + bias
        if block is not None:
            written = written * block
        return masked_layer_norm(
            self.LayerNorm, residual + self.dropout(written), stream.keep if stream else None
        )


class Attention(nn.Module):
    """An attention block."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        layer_norm_eps: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.self = SelfAttention(
            hidden_size=hidden_size, num_heads=num_heads, head_dim=head_dim, dropout=attention_dropout
        )
        self.output = ResidualOutput(
            input_size=num_heads * head_dim,
            hidden_size=hidden_size,
            layer_norm_eps=layer_norm_eps,
            dropout=dropout,
            scale_bias=True,
        )

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, masks: LayerMasks, stream: StreamMask | None
    ) -> Tensor:
        context = self.self(read(x, stream), attention_mask, masks.head)
        return self.output(context, x, masks.head_layer, stream)


class Intermediate(nn.Module):
    """The first half of an FFN block."""

    def __init__(self, *, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[activation]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [G, L, D], mask [F] -> [G, L, F]."""
        inner = self.activation(self.dense(x))
        return inner if mask is None else inner * mask


class EncoderLayer(nn.Module):
    """Attention and FFN; a block with no units left does not exist and is the identity, LayerNorm included."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        intermediate_size: int,
        activation: str,
        layer_norm_eps: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.attention: Attention | None = None
        self.intermediate: Intermediate | None = None
        self.output: ResidualOutput | None = None
        if num_heads > 0:
            self.attention = Attention(
                hidden_size=hidden_size,
                num_heads=num_heads,
                head_dim=head_dim,
                layer_norm_eps=layer_norm_eps,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
        if intermediate_size > 0:
            self.intermediate = Intermediate(
                hidden_size=hidden_size, intermediate_size=intermediate_size, activation=activation
            )
            self.output = ResidualOutput(
                input_size=intermediate_size,
                hidden_size=hidden_size,
                layer_norm_eps=layer_norm_eps,
                dropout=dropout,
                scale_bias=False,
            )

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, masks: LayerMasks, stream: StreamMask | None
    ) -> Tensor:
        if masks.attention_alive:
            assert self.attention is not None  # only a block that exists is alive
            x = self.attention(x, attention_mask, masks, stream)
        if masks.ffn_alive:
            assert self.intermediate is not None
            assert self.output is not None
            x = self.output(self.intermediate(read(x, stream), masks.intermediate), x, masks.mlp, stream)
        return x


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, masks: list[LayerMasks], stream: StreamMask | None
    ) -> list[Tensor]:
        """x [G, L, D], attention_mask bool [G, L] -> the input and every layer's output, each [G, L, D]."""
        if attention_mask is not None:
            attention_mask = attention_mask[:, None, None, :]
        hidden_states = [x]
        for layer, layer_masks in zip(self.layer, masks, strict=True):
            hidden_states.append(layer(hidden_states[-1], attention_mask, layer_masks, stream))
        return hidden_states
