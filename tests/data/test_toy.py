"""The grammar is seeded, its splits are disjoint, a bag of words can't solve it, and its tokenizer knows its words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from prumux.data.tasks import TASKS
from prumux.data.toy import generate, toy_tokenizer, vocabulary
from prumux.errors import UserError

EMBEDDED = ("toy", "toy-nli")


def _texts(rows: list[dict[str, str]]) -> list[str]:
    return [" ".join(filter(None, (row["text"], row.get("text_pair")))) for row in rows]


def _expected_toy_label(text: str) -> str:
    """The rule of the module's docstring, read from the sentence by other means than the grammar's."""
    positive = {"good", "great", "funny", "warm", "clever", "bright", "fresh", "moving"}
    words = text.split()
    if "but" in words or "yet" in words:
        clause = words[max(words.index(word) for word in ("but", "yet") if word in words) :]
    elif words[0] in ("although", "though"):
        clause = words[words.index(",") :]
    else:
        clause = words[
            : next(place for place, word in enumerate(words) if word in ("although", "though", "and"))
        ]
    return "positive" if (clause[-1] in positive) != ("not" in clause) else "negative"


def _expected_nli_label(text: str, text_pair: str) -> str:
    people = {"boy", "girl", "man", "woman", "king", "queen", "nurse"}
    first, second = text.split(), text_pair.split()
    if (first[1] in people) != (second[1] == "person"):
        return "neutral"
    return "entailment" if ("never" in first) == ("never" in second) else "contradiction"


def test_toy_labels_follow_the_rule() -> None:
    for row in generate("toy", "train", 2000):
        assert row["label"] == _expected_toy_label(row["text"]), row


def test_toy_nli_labels_follow_the_rule() -> None:
    for row in generate("toy-nli", "train", 2000):
        assert row["label"] == _expected_nli_label(row["text"], row["text_pair"]), row


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bag_of_words_fails_on_toy(seed: int) -> None:
    train, validation = generate("toy", "train", seed=seed), generate("toy", "validation", seed=seed)
    counts = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=1000)
    model.fit(counts.fit_transform(_texts(train)), [row["label"] for row in train])
    assert model.score(counts.transform(_texts(validation)), [row["label"] for row in validation]) < 0.65


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_are_disjoint_and_balanced(name: str) -> None:
    train, validation = generate(name, "train"), generate(name, "validation")
    assert (len(train), len(validation)) == (8000, 1000)
    assert len(set(_texts(train)) | set(_texts(validation))) == 9000
    labels = TASKS[name].label_names
    shares = Counter(row["label"] for row in train)
    assert set(shares) == set(labels)
    assert max(shares.values()) < 1.15 * len(train) / len(labels)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(EMBEDDED),
    st.integers(0, 300),
    st.integers(0, 2**31),
    st.sampled_from(["train", "validation"]),
)
def test_seed_decides_and_smaller_is_a_prefix(name: str, size: int, seed: int, split: str) -> None:
    rows = generate(name, split, size, seed)
    assert rows == generate(name, split, size, seed)
    assert rows[: size // 2] == generate(name, split, size // 2, seed)
    assert len(set(_texts(rows))) == size


def test_other_seeds_give_other_rows() -> None:
    assert generate("toy", "train", 50, seed=0) != generate("toy", "train", 50, seed=1)


def test_same_rows_in_another_process() -> None:
    code = "from prumux.data.toy import generate; print(generate('toy', 'train', 3))"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(generate("toy", "train", 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SST-2", "train"), "embedded tasks are toy, toy-nli"),
        (("toy", "test"), "choose one of train, validation"),
        (("toy", "train", -1), "choose a smaller size"),
        (("toy", "train", 20_001), "choose a smaller size"),
    ],
)
def test_bad_requests(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(*arguments)


@pytest.mark.parametrize("name", EMBEDDED)
def test_tokenizer_knows_every_word(name: str) -> None:
    tokenizer = toy_tokenizer()
    rows = generate(name, "validation")
    ids = {number for text in _texts(rows) for number in tokenizer(text)["input_ids"]}
    assert tokenizer.unk_token_id not in ids
    assert ids <= set(range(len(vocabulary())))


def test_tokenizer_is_laid_out_like_berts() -> None:
    tokenizer = toy_tokenizer()
    encoded = tokenizer("The plot is not good, but", "the dog")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert " ".join(tokens) == "[CLS] the plot is not good , but [SEP] the dog [SEP]"
    assert encoded["token_type_ids"] == [0] * 9 + [1] * 3
    assert tokenizer.pad_token_id == 0
    assert tokenizer("zebra")["input_ids"][1] == tokenizer.unk_token_id
    assert len(tokenizer) == len(vocabulary()) < 128


def test_tokenizer_is_saved_and_read_back(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = toy_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    pair = ("the plot is dull", "the cast was not warm")
    assert dict(read(*pair)) == dict(tokenizer(*pair))
    assert read.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.slow
def test_a_small_bert_learns_toy() -> None:
    """2 layers of 128 from scratch: above 95 % within 400 steps of 64 (about 20 s on one core)."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from prumux.data.grouping import GroupingCollator
    from prumux.data.loading import load_task, tokenize

    tokenizer = toy_tokenizer()
    data = tokenize(load_task("toy"), tokenizer, max_length=32)
    collate = GroupingCollator(tokenizer, num_instances=1)
    torch.manual_seed(0)
    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1 - step / 450))
    rows = list(data.train)
    order = [place for _ in range(4) for place in torch.randperm(len(rows)).tolist()]
    for step in range(400):
        batch = collate([rows[place] for place in order[step * 64 : (step + 1) * 64]])
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    batch = collate(list(data.validation))
    with torch.no_grad():
        accuracy = (model(**batch).logits.argmax(-1) == batch["labels"]).float().mean().item()
    assert accuracy > 0.95
