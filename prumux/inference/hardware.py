"""Devices and dtypes by name: what this machine has, and one clear line where it lacks something."""

from __future__ import annotations

import logging

import torch

from prumux.errors import UserError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The named device, or the best one there is (cuda, else cpu).

    Raises:
        UserError: the name is unknown or this machine has no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}: choose cpu, cuda or cuda:INDEX") from None
    if resolved.type == "cuda" and resolved.index is None and torch.cuda.is_available():
        resolved = torch.device("cuda", torch.cuda.current_device())
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device} isn't here ({torch.cuda.device_count()} CUDA devices): use cpu")
    if resolved.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} isn't supported: choose cpu, cuda or cuda:INDEX")
    return resolved


INT8 = "int8"  # of the engine's linear layers; no dtype in which a whole model computes


def has_bfloat16(device: torch.device) -> bool:
    """Does the device compute with bfloat16 itself; where it is emulated it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    # oneDNN's own answer counts AVX-512 without these as support, too
    return (
        not torch.cpu._is_avx512_supported()
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    )


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Say so where a dtype that was asked for has no arithmetic of its own."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not has_bfloat16(device):
        logger.warning("this processor emulates bfloat16 and is many times faster in float32")


def int8_activations() -> torch.dtype:
    """The dtype beside int8 on a CPU: bfloat16 where it computes with that, else float32."""
    return torch.bfloat16 if has_bfloat16(torch.device("cpu")) else torch.float32


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype of that name, if the device computes with it.

    Raises:
        UserError: the name is unknown, or the hardware lacks the dtype.
    """
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved not in DTYPES.values():
        raise UserError(
            f"unknown dtype {str(dtype)!r}: choose one of {', '.join(DTYPES)} (the engine on a CPU: also {INT8})"
        )
    assert resolved is not None
    if resolved == torch.float16 and device.type == "cpu":
        raise UserError("float16 has no fast arithmetic on a CPU: use float32 or bfloat16, or a GPU")
    if resolved == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise UserError("this GPU has no bfloat16 arithmetic: use float16 or float32")
    warn_if_emulated(resolved, device)
    return resolved
