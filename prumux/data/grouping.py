"""Rows into groups of N: the collator, the sampler that keeps groups of similar length together, seeded groupings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # label of a filled row: cross entropy skips it, metrics never see it


def _label(feature: Mapping[str, Any]) -> int | float | list[int] | None:
    label = feature.get("labels", feature.get("label"))
    return label.item() if isinstance(label, np.generic | torch.Tensor) else label


class GroupingCollator:
    """Batches features into tensors whose rows form groups of ``num_instances`` consecutive rows.

    A last group that is not full is filled with copies of its rows, labelled :data:`IGNORE` (scores: NaN). Filled rows
    come last, so ``outputs[:len(features)]`` are the real ones. Pads to the longest row, or to ``pad_to_length``.

    Args:
        tokenizer: gives ``pad_token_id``, ``pad_token_type_id`` and ``model_input_names``.
        num_instances: N, the number of rows that share one forward pass.
        pad_to_length: tokens per row, None for the longest row of the batch; a longer row raises.

    Raises:
        ValueError: ``num_instances`` < 1, no features, or a row longer than ``pad_to_length``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_instances: int, pad_to_length: int | None = None
    ) -> None:
        if num_instances < 1:
            raise ValueError(f"num_instances is {num_instances}: a group needs at least 1 row")
        self.num_instances = num_instances
        self.pad_to_length = pad_to_length
        self._padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0}
        if "token_type_ids" in tokenizer.model_input_names:
            self._padding["token_type_ids"] = tokenizer.pad_token_type_id

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Features (``input_ids`` and, if any, ``labels``) to tensors ``[N*B, L]``; ``labels`` ``[N*B]``.

        Labels are int64 classes, or float32 scores when they are floats; a list of classes, one per token, becomes
        ``[N*B, L]``. Features are not modified.
        """
        if not features:
            raise ValueError("a batch of 0 rows can't be grouped: give at least one feature")
        missing = -len(features) % self.num_instances
        group = features[-(len(features) % self.num_instances) :]  # copies of the last group's rows fill it
        rows = [*features, *(group[place % len(group)] for place in range(missing))]
        length = self._length(features)
        batch = {
            name: torch.tensor([self._padded(row, name, pad, length) for row in rows], dtype=torch.long)
            for name, pad in self._padding.items()
        }
        batch["attention_mask"][len(features) :] = 0  # a filled row holds no token that could be asked for
        labels = [_label(feature) for feature in features]
        if isinstance(labels[0], list):
            padded = [[*row, *[IGNORE] * (length - len(row))] for row in labels]  # type: ignore[misc,arg-type]
            batch["labels"] = torch.tensor([*padded, *[[IGNORE] * length] * missing], dtype=torch.long)
        elif labels[0] is not None:
            is_score = isinstance(labels[0], float)
            dtype = torch.float32 if is_score else torch.long
            filled = math.nan if is_score else IGNORE  # any number is a score
            batch["labels"] = torch.tensor([*labels, *[filled] * missing], dtype=dtype)
        return batch

    def _length(self, features: Sequence[Mapping[str, Any]]) -> int:
        longest = max(len(feature["input_ids"]) for feature in features)
        if self.pad_to_length is None:
            return longest
        if longest > self.pad_to_length:
            raise ValueError(
                f"a row of {longest} tokens doesn't fit into pad_to_length={self.pad_to_length}: "
                "tokenize with a smaller max_length or pad to a larger one"
            )
        return self.pad_to_length

    @staticmethod
    def _padded(row: Mapping[str, Any], name: str, pad: int, length: int) -> list[int]:
        given = row.get(name)
        if given is None:  # no mask: every token is real; no types: one sentence
            given = [1 if name == "attention_mask" else 0] * len(row["input_ids"])
        return [*map(int, given), *[pad] * (length - len(given))]


class LengthGroupedSampler(Sampler[int]):
    """Each row index once, in an order whose batches hold groups of N that are about as long as each other.

    Rows are shuffled, cut into megabatches of ``megabatch`` batches and into groups of N, the groups are sorted by
    their longest row inside each megabatch, and the batches are shuffled; a ragged batch, if there is one, stays last.
    Rows meet new neighbours, and each row a new slot, every epoch. ``(seed, epoch)`` fixes the order.

    Args:
        lengths: tokens per row.
        num_instances: N; the rows of a batch are shuffled so that groups and slots are random within the batch.
        batch_size: rows per batch, a multiple of N.
        seed: seed of all orders.
        megabatch: batches that are sorted together; larger means less padding and less random batches; 0 sorts nothing.
        similar_neighbours: sort the rows, not the groups, so that the rows of a group are about as long as each other.

    Raises:
        ValueError: ``batch_size`` is not a positive multiple of ``num_instances``.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        num_instances: int,
        batch_size: int,
        seed: int = 0,
        megabatch: int = 50,
        similar_neighbours: bool = False,
    ) -> None:
        if num_instances < 1 or batch_size < 1 or batch_size % num_instances:
            raise ValueError(
                f"a batch of {batch_size} rows can't form groups of {num_instances}: "
                "choose a batch size that is a multiple of N"
            )
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.num_instances = num_instances
        self.batch_size = batch_size
        self.seed = seed
        self.megabatch = megabatch
        self.similar_neighbours = similar_neighbours
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        chunk = self.megabatch * self.batch_size
        if self.megabatch:
            for start in range(0, len(self), chunk):
                order[start : start + chunk] = self._by_length(order[start : start + chunk])
        full = len(order) // self.batch_size * self.batch_size
        batches = order[:full].reshape(-1, self.batch_size)
        ragged = order[full:]
        for batch in (*batches[rng.permutation(len(batches))], ragged):
            yield from self._slots(batch, rng).tolist()

    def _by_length(self, rows: np.ndarray) -> np.ndarray:
        """The same rows, their groups from long to short; rows that fill no group stay last."""
        size = 1 if self.similar_neighbours else self.num_instances
        full = len(rows) // size * size
        groups = rows[:full].reshape(-1, size)
        longest = self.lengths[groups].max(axis=1)
        return np.concatenate([groups[np.argsort(-longest, kind="stable")].ravel(), rows[full:]])

    def _slots(self, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The same rows in the same groups, but groups and the slots in them are shuffled."""
        full = len(batch) // self.num_instances * self.num_instances
        groups = rng.permuted(batch[:full].reshape(-1, self.num_instances), axis=1)
        rest = rng.permutation(batch[full:])
        return np.concatenate([groups[rng.permutation(len(groups))].ravel(), rest])


def groupings(
    num_rows: int, num_groupings: int, seed: int = 0, lengths: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Row orders ``[num_rows]`` for evaluation: first the input's own order, then seeded permutations.

    Order k is the same for every ``num_groupings`` > k. With ``lengths`` (tokens of each row) every order is sorted by
    them, so that only rows of equal length change places.

    Raises:
        ValueError: ``num_groupings`` < 1.
    """
    if num_groupings < 1:
        raise ValueError(f"num_groupings is {num_groupings}: at least 1 grouping is needed")
    orders = [np.arange(num_rows)]
    orders += [
        np.random.default_rng([seed, place]).permutation(num_rows) for place in range(1, num_groupings)
    ]
    if lengths is not None:
        tokens = np.asarray(lengths)
        orders = [order[np.argsort(tokens[order], kind="stable")] for order in orders]
    return orders
