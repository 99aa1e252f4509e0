"""Throughput of models in examples/s, measured side by side: batch 128*N, 128 tokens, model forward only."""

from __future__ import annotations

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm.auto import tqdm

from prumux.errors import UserError, first_line
from prumux.evaluation.predict import evaluation_mode, model_device
from prumux.inference.engine import InferenceEngine
from prumux.inference.hardware import resolve_device, resolve_dtype


def measure_throughput(
    models: Mapping[str, torch.nn.Module],
    batch_per_instance: int = 128,
    length: int = 128,
    repeats: int = 5,
    warmup: int = 1,
    seed: int = 0,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    compile: bool = False,
    engines: Mapping[str, InferenceEngine] | None = None,
    min_seconds: float = 0.1,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Examples/s of each model, repeat by repeat in turn (A B A B), so that a busy moment meets all of them.

    Each model gets ``batch_per_instance * N`` rows of random tokens, every position attended. The models
    given are not changed: where dtype or device differ a copy is measured.

    Args:
        models: name -> model; N and the vocabulary come from ``model.config``.
        batch_per_instance: mux groups in a batch (rows / N).
        length: tokens per row.
        repeats: timed repeats per model.
        warmup: untimed passes per model before the first repeat (at least 1).
        min_seconds: a repeat runs the batch as often as it takes to last about this long.
        compile: measure ``torch.compile(model)``.
        engines: name -> the model's engine, which is measured in its place.

    Returns:
        One row per model, in order: ``model, num_instances, rows, length, repeats, passes,
        examples_per_second`` (median over repeats) and ``examples_per_second_min``, ``_max``.

    Raises:
        UserError: a count below 1, more tokens than the model has positions, a dtype or device the machine
            lacks, or a failing compilation.
    """
    for name, value in {"batch size": batch_per_instance, "length": length, "repeats": repeats}.items():
        if value < 1:
            raise UserError(f"{name} {value} is too small: give at least 1")
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    engines = engines or {}
    placed = {
        name: model if name in engines else _place(model, dtype, device) for name, model in models.items()
    }
    rows = {name: batch_per_instance * instances(model) for name, model in models.items()}
    runs: dict[str, Callable[[], Any]] = {}
    for name, model in placed.items():
        check_length(model, length)
        batch = random_batch(model.config, rows[name], length, seed, device)
        run = engines.get(name) or (torch.compile(model) if compile else model)
        runs[name] = functools.partial(run, **batch)
    passes: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with evaluation_mode(*placed.values()):
        for name, run in runs.items():
            try:
                _time(run, max(warmup, 1), device)
            except Exception as error:
                if not compile:
                    raise
                raise UserError(
                    f"torch.compile failed for {name} ({first_line(error)}): run without --compile"
                ) from error
            passes[name] = max(1, math.ceil(min_seconds / _time(run, 1, device)))
        for _ in tqdm(
            range(repeats), desc="throughput", unit="repeat", disable=None if progress else True, leave=False
        ):
            for name, run in runs.items():
                seconds[name].append(_time(run, passes[name], device) / passes[name])
    return [
        {
            "model": name,
            "num_instances": instances(model),
            "rows": rows[name],
            "length": length,
            "repeats": repeats,
            "passes": passes[name],
            "examples_per_second": statistics.median(rows[name] / second for second in seconds[name]),
            "examples_per_second_min": rows[name] / max(seconds[name]),
            "examples_per_second_max": rows[name] / min(seconds[name]),
        }
        for name, model in models.items()
    ]


def instances(model: torch.nn.Module) -> int:
    """N of a model; 1 for a model that knows no multiplexing, such as Hugging Face's own BERT."""
    return getattr(model.config, "num_instances", 1)


def check_length(model: torch.nn.Module, length: int) -> None:
    """Raise a UserError if ``length`` tokens and the demultiplexer's prefix don't fit the positions."""
    positions = getattr(getattr(model, "bert", None), "max_length", None)
    if positions is None:  # Hugging Face's own models
        config: Any = model.config
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and getattr(config, "model_type", None) == "roberta":
            positions -= config.pad_token_id + 1
    if positions is not None and length > positions:
        raise UserError(
            f"rows of {length} tokens don't fit this model: use --max_seq_length {positions} or less"
        )


def random_batch(
    config: Any, rows: int, length: int, seed: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Random ``input_ids`` and an all-ones ``attention_mask``, both [rows, length], fixed by the seed."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def _place(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The model itself if its weights have that dtype and device already, else a copy that has."""
    floating = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    if floating <= {dtype} and model_device(model) == device:
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def _time(run: Callable[[], Any], passes: int, device: torch.device) -> float:
    """Seconds that the passes take together, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(passes):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
