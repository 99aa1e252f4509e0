"""What this machine is said to compute with."""

from __future__ import annotations

import pytest
import torch

from prumux.inference import hardware
from prumux.inference.hardware import has_bfloat16, resolve_dtype


@pytest.mark.parametrize(
    ("avx512", "instructions", "expected"),
    [
        pytest.param(True, True, True, id="AVX-512 with bfloat16"),
        pytest.param(True, False, False, id="AVX-512 that emulates it"),
        pytest.param(False, False, True, id="no x86 processor, whose support oneDNN knows"),
    ],
)
def test_emulated_bfloat16_does_not_count(monkeypatch, avx512, instructions, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert has_bfloat16(torch.device("cpu")) is expected
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert has_bfloat16(torch.device("cpu")) is False


def test_who_asks_for_it_all_the_same_is_told(monkeypatch, caplog):
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: False)
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert "emulates bfloat16" in caplog.text
    caplog.clear()
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: True)
    resolve_dtype("bfloat16", torch.device("cpu"))
    assert not caplog.text


def test_devices_of_other_kinds_are_not_guessed():
    assert has_bfloat16(torch.device("mps")) is False
