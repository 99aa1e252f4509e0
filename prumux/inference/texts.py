"""`text_batches`: texts of any number -> batches of tokens, sorted by length or padded to one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prumux.errors import UserError

WINDOW = 64  # batches whose texts are sorted by length together

Text = str | tuple[str, str] | list[str]


def text_batches(
    texts: Iterable[Text],
    tokenizer: Any,
    *,
    rows: int,
    max_length: int,
    length_bucketing: bool,
    pad_token_id: int,
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Batches of at most ``rows`` texts: their positions among the texts [rows], and their tokens [rows, L].

    Args:
        texts: sentences, or pairs of sentences; read window by window, so a generator may be endless.
        max_length: tokens; longer texts are cut.
        length_bucketing: sort each window by length and pad a batch to its longest row; else keep the order and pad
            all to ``max_length``.

    Raises:
        UserError: something that is neither a sentence nor a pair, or both mixed.
    """
    iterator = iter(texts)
    start = 0
    while window := list(islice(iterator, rows * WINDOW)):
        encoded = _encode(window, tokenizer, max_length)
        sizes = np.array([len(ids) for ids in encoded["input_ids"]])
        order = np.argsort(sizes, kind="stable") if length_bucketing else np.arange(len(window))
        for first in range(0, len(order), rows):
            chosen = order[first : first + rows]
            width = int(sizes[chosen].max()) if length_bucketing else max_length
            yield (
                start + chosen,
                {
                    name: _padded(values, chosen, width, pad_token_id if name == "input_ids" else 0)
                    for name, values in encoded.items()
                },
            )
        start += len(window)


def _encode(texts: list[Text], tokenizer: Any, max_length: int) -> dict[str, list[list[int]]]:
    """Token ids, masks and, of pairs where the model has them, types."""
    pairs = not isinstance(texts[0], str)
    for text in texts:
        parts = text if pairs and isinstance(text, tuple | list) and len(text) == 2 else [text]
        if (len(parts) == 2) != pairs or not all(isinstance(part, str) for part in parts):
            raise UserError(
                f"{str(text)[:80]!r} is no text to predict: give sentences, or pairs of sentences"
            )
    columns = list(zip(*texts, strict=True)) if pairs else [texts]
    encoded = tokenizer(*map(list, columns), truncation=True, max_length=max_length)
    wanted = ("input_ids", "attention_mask", *(("token_type_ids",) if pairs else ()))
    return {name: encoded[name] for name in wanted if name in encoded}


def _padded(values: list[list[int]], chosen: np.ndarray, width: int, pad: int) -> Tensor:
    batch = torch.full((len(chosen), width), pad, dtype=torch.long)
    for row, index in enumerate(chosen):
        ids = torch.tensor(values[int(index)])
        batch[row, : len(ids)] = ids
    return batch
