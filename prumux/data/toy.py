"""The embedded tasks: a seeded grammar whose labels hang on word order and negation, and a tokenizer for it.

``toy``: one sentence about a film, negative or positive. Two clauses are joined; the one that counts is the clause
after "but" or "yet", or the clause that "although" or "though" does not introduce (before or after it); "and" joins
two clauses that agree. "not" flips the adjective after it. No word by itself tells which clause counts.

``toy-nli``: does the second sentence follow from the first? It says "person" and "animal" for the first one's nouns
and may leave out adjectives and adverbs. Who acts on whom the other way round is neutral; else "never" in one of the
two sentences only contradicts. Single words say next to nothing about the label.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from prumux.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = dict[str, str]

SPLITS = ("train", "validation")
SIZES = {"train": 8000, "validation": 1000}  # default number of rows

_TOPICS = ["plot", "cast", "music", "script", "ending", "story", "acting", "scene", "dialogue", "hero"]
_POSITIVE = ["good", "great", "funny", "warm", "clever", "bright", "fresh", "moving"]
_NEGATIVE = ["bad", "awful", "dull", "cold", "silly", "grim", "stale", "boring"]
_DEGREES = ["very", "quite", "really", "rather"]
_SECOND_COUNTS = ["but", "yet"]
_CONCESSIVES = ["although", "though"]

_PEOPLE = ["boy", "girl", "man", "woman", "king", "queen", "nurse"]
_ANIMALS = ["dog", "cat", "fox", "horse", "duck", "goat", "wolf"]
_KINDS = ("person", "animal")
_VERBS = ["chased", "found", "helped", "saw", "followed", "called"]
_LOOKS = ["old", "small", "young", "happy", "tired", "brown"]
_TAILS = ["today", "again", "yesterday", "there", "alone"]

_FUNCTION_WORDS = ["the", "is", "was", "not", "never", "and", ","]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Shares, chosen so that training from scratch starts fast: with every choice at one half no single word, no pair of
# words helps, and a small model stays at chance for minutes. Still, a bag of words stays near chance (test_toy.py).
_P_AGREE, _P_NOT, _P_DEGREE = 0.4, 0.35, 0.1
_P_PERSON_ACTS, _P_NEVER, _P_LOOK, _P_TAIL = 0.9, 0.35, 0.4, 0.4  # the first of the second sentence


def _clause(rng: random.Random, topic: str, positive: bool) -> str:
    negated = rng.random() < _P_NOT
    words = ["the", topic, rng.choice(["is", "was"])]
    words += ["not"] if negated else []
    words += [rng.choice(_DEGREES)] if rng.random() < _P_DEGREE else []
    words += [rng.choice(_POSITIVE if positive != negated else _NEGATIVE)]
    return " ".join(words)


def _toy_row(rng: random.Random) -> Row:
    positive = rng.random() < 0.5
    agree = rng.random() < _P_AGREE
    first_topic, second_topic = rng.sample(_TOPICS, 2)
    main = _clause(rng, first_topic, positive)
    other = _clause(rng, second_topic, positive if agree else not positive)
    if agree:
        text = f"{main} and {other}"
    else:
        frame = rng.randrange(3)
        if frame == 0:
            text = f"{other} {rng.choice(_SECOND_COUNTS)} {main}"
        elif frame == 1:
            text = f"{main} {rng.choice(_CONCESSIVES)} {other}"
        else:
            text = f"{rng.choice(_CONCESSIVES)} {other} , {main}"
    return {"text": text, "label": "positive" if positive else "negative"}


def _event(actor: str, never: bool, verb: str, acted_on: str) -> str:
    return f"the {actor} {'never ' if never else ''}{verb} the {acted_on}"


def _toy_nli_row(rng: random.Random) -> Row:
    label = rng.choice(["entailment", "neutral", "contradiction"])
    nouns = (rng.choice(_PEOPLE), rng.choice(_ANIMALS))
    kinds = _KINDS
    if rng.random() >= _P_PERSON_ACTS:
        nouns, kinds = nouns[::-1], kinds[::-1]
    if label == "neutral":
        nouns = nouns[::-1]
    never = second_never = rng.random() < _P_NEVER
    if label == "contradiction":
        second_never = not never
    elif label == "neutral":
        second_never = rng.random() < _P_NEVER
    verb = rng.choice(_VERBS)
    look = f"{rng.choice(_LOOKS)} " if rng.random() < _P_LOOK else ""
    tail = f" {rng.choice(_TAILS)}" if rng.random() < _P_TAIL else ""
    return {
        "text": _event(nouns[0], never, verb, look + nouns[1]) + tail,
        "text_pair": _event(kinds[0], second_never, verb, kinds[1]),
        "label": label,
    }


_GRAMMARS: dict[str, Callable[[random.Random], Row]] = {"toy": _toy_row, "toy-nli": _toy_nli_row}


def _draw(task_name: str, split: str, size: int, seed: int, taken: set[tuple[str, ...]]) -> list[Row]:
    """``size`` different rows, none of whose texts is in ``taken``; every split has its own random stream."""
    rng = random.Random(f"{task_name}/{split}/{seed}")  # a string seed is the same in every process
    seen = set(taken)
    rows: list[Row] = []
    while len(rows) < size:
        row = _GRAMMARS[task_name](rng)
        if (key := _texts(row)) not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def _texts(row: Row) -> tuple[str, ...]:
    return (row["text"], row.get("text_pair", ""))


def generate(task_name: str, split: str, size: int | None = None, seed: int = 0) -> list[Row]:
    """Rows of an embedded task: ``{"text", "label"}``, for ``toy-nli`` also ``"text_pair"``; labels are names.

    Rows are all different. The training split holds no row of the validation split of the same seed (of any size up
    to the default one). A smaller size is a prefix of a larger one.

    Raises:
        UserError: another task or split, or a size outside [0, 20000].
    """
    if task_name not in _GRAMMARS:
        raise UserError(f"no grammar for task '{task_name}': the embedded tasks are {', '.join(_GRAMMARS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}' of {task_name}: choose one of {', '.join(SPLITS)}")
    size = SIZES[split] if size is None else size
    if not 0 <= size <= 20_000:
        raise UserError(f"{task_name} can give 0 to 20000 rows, not {size}: choose a smaller size")
    if split == "validation":
        return _draw(task_name, split, size, seed, taken=set())
    held_out = {_texts(row) for row in _draw(task_name, "validation", SIZES["validation"], seed, taken=set())}
    return _draw(task_name, split, size, seed, taken=held_out)


def vocabulary() -> list[str]:
    """The words of both tasks after the five special tokens; a token's place is its id."""
    words = [*_FUNCTION_WORDS, *_TOPICS, *_POSITIVE, *_NEGATIVE, *_DEGREES, *_SECOND_COUNTS, *_CONCESSIVES]
    words += [*_PEOPLE, *_ANIMALS, *_KINDS, *_VERBS, *_LOOKS, *_TAILS]
    assert len(set(words)) == len(words)
    return _SPECIAL + words


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer for both embedded tasks, built in memory; adds [CLS] and [SEP] as BERT does.

    Not padded, lower-cased; ``save_pretrained`` writes it and ``AutoTokenizer`` reads it back.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: place for place, token in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=512,
    )
