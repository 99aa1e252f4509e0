"""Linear layers in int8: weights quantised once per output, activations per position while they pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 127


class Int8Linear(nn.Module):
    """``x W^T + b`` through an int8 matrix product.

    Weights have one scale per output (the largest absolute weight becomes 127). Activations get one scale per position,
    found while they pass, so that nothing has to be calibrated.
    """

    weight: Tensor  # int8 (in, out)
    scale: Tensor  # (out)
    bias: Tensor  # (out)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8).t().contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], in the dtype of ``x``."""
        rows = x.flatten(0, -2).float()
        scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-20) / LARGEST
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.weight)
        return (product.float() * scale * self.scale + self.bias).to(x.dtype).unflatten(0, x.shape[:-1])


def quantize(module: nn.Module) -> None:
    """Replace every linear layer below ``module``, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantize(child)
