"""Groups of N: every row once, filled rows last and ignored, orders fixed by the seed, inputs left alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prumux.data.grouping import IGNORE, GroupingCollator, LengthGroupedSampler, groupings
from prumux.data.toy import toy_tokenizer

TOKENIZER = toy_tokenizer()
PAD = TOKENIZER.pad_token_id


def _features(lengths: list[int], labels: str = "class") -> list[dict]:
    rows = []
    for place, length in enumerate(lengths):
        row = {
            "input_ids": [2, *range(5, 5 + length), 3],
            "attention_mask": [1] * (length + 2),
            "token_type_ids": [0] * (length + 1) + [1],
            "length": length + 2,
        }
        if labels != "none":
            row["labels"] = place % 3 if labels == "class" else place / 2
        rows.append(row)
    return rows


lengths_of_rows = st.lists(st.integers(0, 12), min_size=1, max_size=25)


@settings(deadline=None)
@given(lengths_of_rows, st.integers(1, 10), st.sampled_from(["class", "score", "none"]))
def test_collator_keeps_rows_and_ignores_filled_ones(
    lengths: list[int], num_instances: int, labels: str
) -> None:
    features = _features(lengths, labels)
    before = copy.deepcopy(features)
    batch = GroupingCollator(TOKENIZER, num_instances)(features)
    assert features == before
    rows, longest = len(features), max(lengths) + 2
    total = -(-rows // num_instances) * num_instances
    assert set(batch) - {"labels"} == {"input_ids", "attention_mask", "token_type_ids"}
    assert ("labels" in batch) == (labels != "none")
    for place in range(total):
        group = features[rows // num_instances * num_instances :]  # filled with copies of its own rows
        source = features[place] if place < rows else group[(place - rows) % len(group)]
        padding = longest - len(source["input_ids"])
        assert batch["input_ids"][place].tolist() == source["input_ids"] + [PAD] * padding
        mask = source["attention_mask"] if place < rows else [0] * len(source["input_ids"])
        assert batch["attention_mask"][place].tolist() == mask + [0] * padding
        assert batch["token_type_ids"][place].tolist() == source["token_type_ids"] + [0] * padding
    if labels != "none":
        assert batch["labels"].dtype == (torch.int64 if labels == "class" else torch.float32)
        assert batch["labels"][:rows].tolist() == [row["labels"] for row in features]
        filled = batch["labels"][rows:]
        assert (filled.isnan() if labels == "score" else filled == IGNORE).all()


def test_collator_pads_to_a_length() -> None:
    batch = GroupingCollator(TOKENIZER, 2, pad_to_length=16)(_features([3, 4, 5]))
    assert batch["input_ids"].shape == (4, 16)
    assert batch["attention_mask"].sum(1).tolist() == [5, 6, 7, 0]


def test_collator_refuses_a_row_that_is_too_long() -> None:
    with pytest.raises(ValueError, match=r"12 tokens doesn't fit into pad_to_length=8.*smaller max_length"):
        GroupingCollator(TOKENIZER, 2, pad_to_length=8)(_features([3, 10]))


def test_collator_refuses_no_rows_and_no_instances() -> None:
    with pytest.raises(ValueError, match="batch of 0 rows"):
        GroupingCollator(TOKENIZER, 2)([])
    with pytest.raises(ValueError, match="num_instances is 0"):
        GroupingCollator(TOKENIZER, 0)


def test_collator_fills_in_a_missing_mask() -> None:
    batch = GroupingCollator(TOKENIZER, 1)([{"input_ids": [2, 5, 3]}, {"input_ids": [2, 3]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_ignored_class_labels_do_not_count_in_the_loss() -> None:
    batch = GroupingCollator(TOKENIZER, 5)(_features([3, 4]))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
    real = torch.nn.functional.cross_entropy(logits[:2], batch["labels"][:2])
    assert torch.equal(loss, real)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=200),
    num_instances=st.integers(1, 5),
    groups=st.integers(1, 8),
    megabatch=st.integers(0, 6),
    similar=st.booleans(),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
)
def test_sampler_gives_each_row_once_and_repeats(
    lengths: list[int],
    num_instances: int,
    groups: int,
    megabatch: int,
    similar: bool,
    seed: int,
    epoch: int,
) -> None:
    def order(epoch: int) -> list[int]:
        sampler = LengthGroupedSampler(
            lengths, num_instances, num_instances * groups, seed, megabatch, similar
        )
        sampler.set_epoch(epoch)
        assert len(sampler) == len(lengths)
        assert list(sampler) == list(sampler)
        return list(sampler)

    before = list(lengths)
    assert sorted(order(epoch)) == list(range(len(lengths)))
    assert order(epoch) == order(epoch)
    assert lengths == before


def _padded_share(lengths: np.ndarray, order: list[int], batch_size: int) -> float:
    batches = [lengths[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)


def test_sampler_saves_padding_in_batches_and_of_similar_neighbours_also_in_groups() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=2000)
    order = list(LengthGroupedSampler(lengths, 2, 32, seed=0))
    similar = list(LengthGroupedSampler(lengths, 2, 32, seed=0, similar_neighbours=True))
    shuffled = np.random.default_rng(1).permutation(2000).tolist()
    in_groups = _padded_share(lengths, shuffled, 2)  # what any neighbours cost
    assert in_groups - 0.02 < _padded_share(lengths, order, 32) < in_groups + 0.1
    assert _padded_share(lengths, similar, 32) < 0.1 < 0.3 < _padded_share(lengths, shuffled, 32)
    assert _padded_share(lengths, similar, 2) < 0.02


def test_without_neighbours_both_kinds_of_grouping_are_one() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=500)
    orders = [list(LengthGroupedSampler(lengths, 1, 16, similar_neighbours=similar)) for similar in (0, 1)]
    assert orders[0] == orders[1]


def test_sampler_changes_order_neighbours_and_slots_with_the_epoch() -> None:
    lengths = [7] * 400  # every row fits every other one
    sampler = LengthGroupedSampler(lengths, 2, 20, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second

    def neighbours(order: list[int]) -> set[frozenset[int]]:
        return {frozenset(order[place : place + 2]) for place in range(0, len(order), 2)}

    assert len(neighbours(first) & neighbours(second)) < 10
    same_slot = sum(row % 2 == 0 for row in map(first.index, second[::2]))
    assert 60 < same_slot < 140  # 200 rows of slot 0: about half of them sat there before


def test_sampler_keeps_a_ragged_batch_last() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=103)
    order = list(LengthGroupedSampler(lengths, 5, 10, seed=0, megabatch=3))
    batches = [lengths[order[start : start + 10]] for start in range(0, 103, 10)]
    assert [len(batch) for batch in batches] == [10] * 10 + [3]


def test_sampler_shuffles_the_batches() -> None:
    lengths = list(range(1, 501))
    order = np.array(list(LengthGroupedSampler(lengths, 2, 10, seed=0)))
    longest = np.array(lengths)[order].reshape(-1, 10).max(axis=1)
    assert not np.array_equal(longest, np.sort(longest))
    assert not np.array_equal(longest, np.sort(longest)[::-1])


@pytest.mark.parametrize(("num_instances", "batch_size"), [(2, 7), (5, 4), (0, 4), (2, 0)])
def test_sampler_refuses_batches_that_are_not_groups(num_instances: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch of {batch_size} rows can't form groups of {num_instances}"):
        LengthGroupedSampler([3, 4], num_instances, batch_size)


@given(st.integers(0, 50), st.integers(1, 6), st.integers(0, 2**31))
def test_groupings_are_permutations_that_start_with_the_input(num_rows: int, number: int, seed: int) -> None:
    orders = groupings(num_rows, number, seed)
    assert len(orders) == number
    assert orders[0].tolist() == list(range(num_rows))
    assert all(sorted(order.tolist()) == list(range(num_rows)) for order in orders)
    for order, again in zip(orders, groupings(num_rows, number + 1, seed), strict=False):
        assert np.array_equal(order, again)
    values = np.arange(num_rows) * 7
    for order in orders:  # what predict does: outputs come back in the order of the input
        restored = np.empty_like(values)
        restored[order] = values[order]
        assert np.array_equal(restored, values)


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 4))
def test_groupings_by_length_are_sorted_and_change_rows_of_equal_length_only(
    lengths: list[int], number: int
) -> None:
    orders = groupings(len(lengths), number, lengths=lengths)
    assert len(orders) == number
    for order in orders:
        assert sorted(order.tolist()) == list(range(len(lengths)))
        assert [lengths[row] for row in order] == sorted(lengths)


def test_groupings_need_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        groupings(3, 0)


@pytest.mark.parametrize("megabatch", [0, 50])
def test_rows_meet_rows_of_any_length_unless_similar_ones_are_asked_for(megabatch: int) -> None:
    lengths = list(range(1, 1001))

    def spread(**flags: Any) -> float:
        order = list(LengthGroupedSampler(lengths, 2, 10, seed=0, **flags))
        assert sorted(order) == list(range(1000))
        return float(
            np.mean([abs(lengths[a] - lengths[b]) for a, b in zip(order[::2], order[1::2], strict=True)])
        )

    assert spread(similar_neighbours=True) < 10 < 200 < spread(megabatch=megabatch)
