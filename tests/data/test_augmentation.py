"""`replace_tokens`: which tokens change, and to what."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prumux.data.augmentation import replace_tokens

CLS, SEP, PAD = 1, 2, 0
SPECIAL = torch.tensor([CLS, SEP, PAD])


def batch(lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of [CLS] words [SEP], padded; every row's words are its own."""
    longest = max(lengths) + 2
    ids = torch.full((len(lengths), longest), PAD)
    for row, length in enumerate(lengths):
        words = torch.arange(length) + 100 * (row + 1)
        ids[row, : length + 2] = torch.cat([torch.tensor([CLS]), words, torch.tensor([SEP])])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "token_type_ids": torch.zeros_like(ids)}


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)
def test_only_words_change_and_only_to_words_of_the_batch(lengths, share, seed):
    torch.manual_seed(seed)
    features = batch(lengths)
    before = {name: value.clone() for name, value in features.items()}
    after = replace_tokens(features, share, SPECIAL)
    assert all(torch.equal(features[name], before[name]) for name in before)  # not modified
    ids, was = after["input_ids"], before["input_ids"]
    other = ids != was
    assert not torch.isin(was[other], SPECIAL).any()
    assert torch.isin(ids[other], was).all()
    assert not torch.isin(ids[other], SPECIAL).any()
    assert torch.equal(after["attention_mask"], before["attention_mask"])
    assert torch.equal(after["token_type_ids"], before["token_type_ids"])


def test_about_so_many_words_change():
    torch.manual_seed(0)
    features = batch([30] * 400)
    after = replace_tokens(features, 0.2, SPECIAL)
    other = (after["input_ids"] != features["input_ids"]).sum().item() / (30 * 400)
    assert abs(other - 0.2) < 0.02


def test_a_word_that_stands_twice_in_a_row_stays_twice():
    torch.manual_seed(0)
    pair = torch.tensor([[CLS, 5, 6, 7, 5, SEP, 5, 7, 8, SEP, PAD], [CLS, 5, 6, 9, 9, SEP, 6, 9, 8, 7, SEP]])
    features = {"input_ids": pair.repeat(50, 1), "attention_mask": (pair.repeat(50, 1) != PAD).long()}
    after = replace_tokens(features, 0.4, SPECIAL)["input_ids"]
    was = features["input_ids"]
    same = was[:, :, None] == was[:, None, :]
    assert (after[:, :, None] == after[:, None, :])[same].all()
    fives = (was[:, 1] == 5).nonzero()[:, 0]
    assert len(set(after[fives, 1].tolist())) > 2  # but not in all rows the same


def test_nothing_to_replace():
    features = batch([0, 0])
    after = replace_tokens(features, 0.5, SPECIAL)
    assert torch.equal(after["input_ids"], features["input_ids"])
