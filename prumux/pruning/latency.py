"""`Latency`: what a structure costs in seconds, from a table measured on this machine (ZipLM, arXiv 2302.04089)."""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from prumux.errors import UserError
from prumux.models.configuration import PrumuxConfig
from prumux.models.encoder import Attention, Intermediate, ResidualOutput
from prumux.pruning.accounting import Cost, Number
from prumux.pruning.masks import LayerMasks

WIDTHS = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of the hidden size at which blocks are timed
INNER = (0.03, 0.125, 0.25, 0.5, 1.0)  # shares of the FFN's dimensions
TOKENS = {"cpu": 1 << 10, "cuda": 1 << 17}  # of the mixture, timed at once: as many as the engine takes
REPEATS = 7


class Latency(Cost):
    """Seconds per attention and FFN block, linear between the measured sizes, made monotone in each of them."""

    unit = "share of the encoder's time removed"

    def __init__(
        self,
        config: PrumuxConfig,
        widths: Sequence[float],
        heads: Sequence[float],
        inner: Sequence[float],
        attention: Sequence[Sequence[float]],
        ffn: Sequence[Sequence[float]],
        read: float = 1.0,
    ) -> None:
        """``attention`` [len(widths), len(heads)] and ``ffn`` [len(widths), len(inner)] in seconds; sizes ascend.

        ``read``: share of the positions whose last states are read. After the last attention block the engine computes
        only these, and in that block only their queries.

        Raises:
            ValueError: tables of another shape than their axes, sizes that don't ascend, times that aren't positive.
        """
        super().__init__(config)
        self._read = read
        self._axes = [torch.tensor(axis, dtype=torch.float32) for axis in (widths, heads, inner)]
        if any(len(axis) < 2 or not bool((axis.diff() > 0).all()) for axis in self._axes):
            raise ValueError("each axis of a latency table needs two or more ascending sizes")
        self._tables = []
        for values, columns in ((attention, heads), (ffn, inner)):
            table = torch.tensor(values, dtype=torch.float32)
            if table.shape != (len(widths), len(columns)) or not bool((table > 0).all()):
                raise ValueError(f"a latency table must hold {len(widths)} x {len(columns)} positive times")
            self._tables.append(table.cummax(0).values.cummax(1).values)  # a smaller block never costs more

    def attention(self, hidden: Number, heads: Number, later: Number = 1.0) -> Number:
        keys_and_values = 0.5  # of the block's products; queries and output are the other half
        share = keys_and_values + (1 - keys_and_values) * self._computed(later)
        return share * _between(self._axes[0], self._axes[1], self._tables[0], hidden, heads)

    def ffn(self, hidden: Number, intermediate: Number, later: Number = 1.0) -> Number:
        return self._computed(later) * _between(
            self._axes[0], self._axes[2], self._tables[1], hidden, intermediate
        )

    def _computed(self, later: Number) -> Number:
        """Share of the positions that a block computes."""
        return later + (1 - later) * self._read

    @staticmethod
    def is_of(
        path: Path, config: PrumuxConfig, *, length: int, device: torch.device, dtype: torch.dtype
    ) -> bool:
        """Is there a table for this encoder under these conditions (a broken one is left to :meth:`read`)."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            made = {name: fields.get(name) for name in _conditions(config, length, device, dtype)}
        except OSError:
            return False
        except (ValueError, AttributeError):
            return True
        return made == _conditions(config, length, device, dtype)

    @classmethod
    def read(cls, config: PrumuxConfig, path: Path, read: float = 1.0) -> Latency:
        """The table that :func:`measure` gave, from a JSON file; ``read`` as for the class.

        Raises:
            UserError: a file that holds no such table.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            tables = {name: fields[name] for name in ("widths", "heads", "inner", "attention", "ffn")}
            return cls(config, **tables, read=read)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} holds no latency table ({type(error).__name__}: {error}): delete it, and it is measured again"
            ) from error


def _between(rows: Tensor, columns: Tensor, table: Tensor, row: Number, column: Number) -> Tensor:
    """Bilinear interpolation; beyond the smallest and largest size the edge's value."""
    row, column = torch.as_tensor(row, dtype=torch.float32), torch.as_tensor(column, dtype=torch.float32)
    i, s = _place(rows.to(row.device), row)
    j, t = _place(columns.to(column.device), column)
    table = table.to(row.device)
    upper = table[i, j] * (1 - t) + table[i, j + 1] * t
    lower = table[i + 1, j] * (1 - t) + table[i + 1, j + 1] * t
    return upper * (1 - s) + lower * s


def _place(axis: Tensor, value: Tensor) -> tuple[int, Tensor]:
    """The interval of ``axis`` that holds ``value``, and where in it, 0 to 1."""
    i = int((axis[1:-1] <= value.detach()).sum())
    return i, ((value - axis[i]) / (axis[i + 1] - axis[i])).clamp(0, 1)


@torch.inference_mode()
def measure(
    config: PrumuxConfig, *, length: int, device: torch.device, dtype: torch.dtype
) -> dict[str, object]:
    """Time single blocks of the encoder at several sizes on ``device``; seconds, medians."""
    conditions = _conditions(config, length, device, dtype)
    widths, heads, inner = (conditions[axis] for axis in ("widths", "heads", "inner"))
    groups = max(1, TOKENS.get(device.type, TOKENS["cuda"]) // length)
    common = {"layer_norm_eps": config.layer_norm_eps, "dropout": 0.0}
    dense = LayerMasks(True, True)
    progress = tqdm(total=len(widths) * (len(heads) + len(inner)), desc="timing blocks")

    def timed(block: Callable[[], object]) -> float:
        progress.update()
        return _median_seconds(block, device)

    attention, ffn = [], []
    for width in widths:
        x = torch.randn(groups, length, width, device=device, dtype=dtype)
        row = []
        for count in heads:
            unit = Attention(
                hidden_size=width, num_heads=count, head_dim=config.head_dim, attention_dropout=0.0, **common
            )
            unit = unit.to(device, dtype).eval()
            row.append(timed(functools.partial(unit, x, None, dense, None)))
        attention.append(row)
        row = []
        for count in inner:
            first = Intermediate(hidden_size=width, intermediate_size=count, activation=config.hidden_act)
            last = ResidualOutput(input_size=count, hidden_size=width, scale_bias=False, **common)
            first, last = first.to(device, dtype).eval(), last.to(device, dtype).eval()
            row.append(timed(functools.partial(_ffn, first, last, x)))
        ffn.append(row)
    progress.close()
    return {**conditions, "tokens": groups * length, "attention": attention, "ffn": ffn}


def _conditions(
    config: PrumuxConfig, length: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What a table depends on; the sizes are the unpruned encoder's."""
    return {
        "widths": _sizes(config.dense_hidden_size, WIDTHS),
        "heads": sorted({1, 2, *_sizes(config.num_attention_heads, (0.25, 0.5, 1.0))}),
        "inner": _sizes(config.intermediate_size, INNER),
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "length": length,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": str(dtype),
        "threads": torch.get_num_threads(),
    }


def _ffn(first: Intermediate, last: ResidualOutput, x: Tensor) -> Tensor:
    return last(first(x, None), x, None, None)


def _sizes(full: int, shares: Sequence[float]) -> list[int]:
    return sorted({max(1, round(full * share)) for share in shares})


def _median_seconds(block: Callable[[], object], device: torch.device) -> float:
    """The median of a few timed calls after one untimed."""

    def synchronise() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize()

    block()
    times = []
    for _ in range(REPEATS):
        synchronise()
        start = time.perf_counter()
        block()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
