"""Token classification: words with tags from CoNLL files, JSON or the hub, and their alignment with word pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prumux.data.files import read_json
from prumux.data.grouping import IGNORE
from prumux.data.tasks import TAG_METRICS, Task
from prumux.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD_COLUMNS = ("words", "tokens")
TAG_COLUMNS = ("tags", "ner_tags", "labels")
CONLL_TYPES = (".conll", ".txt", ".tsv", ".bio", ".iob2")
TAGGED_TYPES = (".conll", ".bio", ".iob2")  # ends that say that a file holds tagged words
JSON_TYPES = (".json", ".jsonl")
# Names of the files of a split in a --data_dir, without their ends.
SPLIT_NAMES = {"train": ("train", "eng.train"), "validation": ("dev", "valid", "validation", "eng.testa")}

Sentences = dict[str, list[Any]]  # columns "text" (a list of words) and "label" (a list of tag names)


def read_split(task: Task, split: str, data_dir: str | Path | None) -> Sentences:
    """One split of a token task, from a folder of CoNLL files or from the hub.

    Raises:
        UserError: no such file, a ragged one, or the hub out of reach.
    """
    if data_dir is None:
        return _read_hub(task, split)
    names = [name + end for name in SPLIT_NAMES[split] for end in (*CONLL_TYPES, *JSON_TYPES, "")]
    folders = [Path(data_dir), *(Path(data_dir) / str(task.folder) for _ in range(task.folder is not None))]
    file = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(
            f"no {split} file of {task.name} in '{data_dir}': expected {names[0]} with a word and its tag per line"
        )
    return read_file(file)


def read_file(path: Path) -> Sentences:
    """Sentences of a CoNLL file, or of a JSON file with the columns ``tokens`` and ``ner_tags`` (names).

    Raises:
        UserError: another kind of file, unreadable, ragged columns, or tags that don't align with the words.
    """
    kind = path.suffix.lower()
    if kind not in (*CONLL_TYPES, *JSON_TYPES, ""):
        raise UserError(
            f"can't read '{path}': expected a file that ends in {', '.join((*CONLL_TYPES, *JSON_TYPES))}"
        )
    if not path.is_file():
        raise UserError(f"no such file: '{path}': correct --train_file or --validation_file")
    if kind in JSON_TYPES:
        found = list(_json(path))
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read '{path}' ({error}): expected UTF-8 text") from None
        found = list(_conll(path, text))
        if (
            found
            and all(words == [str(i + 1) for i in range(len(words))] for words, _ in found)
            and found[0][0][1:]
        ):
            raise UserError(
                f"the first column of '{path}' counts 1, 2, 3: put the word there, and its tag in the last column"
            )
    return {"text": [words for words, _ in found], "label": [tags for _, tags in found]}


def _conll(path: Path, text: str) -> Iterator[tuple[list[str], list[str]]]:
    """A word per line, its tag in the last column; an empty line ends a sentence, lines before one may be comments."""
    words: list[str] = []
    tags: list[str] = []
    columns = 0
    lines = text.split("\n")
    for number, line in enumerate([*lines, ""], start=1):
        fields = _fields(line)
        if not line.strip():
            if words:
                yield words, tags
            words, tags = [], []
        elif fields[0] != "-DOCSTART-" and (words or not _is_comment(lines, number - 1)):
            columns = columns or len(fields)
            if len(fields) != columns or columns < 2:
                raise UserError(
                    f"'{path}' line {number} has {len(fields)} columns, expected {max(2, columns)} (a word, ..., its "
                    "tag): correct the line; an empty line ends a sentence"
                )
            if not fields[0] or not fields[-1]:
                raise UserError(
                    f"'{path}' line {number} lacks its word or its tag: fill it in or remove the line"
                )
            words.append(fields[0])
            tags.append(fields[-1])


def _fields(line: str) -> list[str]:
    # with tabs, spaces belong to the word
    return [part.strip() for part in line.split("\t")] if "\t" in line else line.split()


def _is_comment(lines: Sequence[str], place: int) -> bool:
    """Is a line before a sentence about it ("# id 7", "# text = ..."), and not its first word, which may be "#"?"""
    if not lines[place].startswith("#"):
        return False
    if re.match(r"#\s*(id\s|[\w.-]+\s*=)", lines[place]):
        return True
    words = next((line for line in lines[place:] if not line.startswith("#")), "")
    return len(_fields(lines[place])) != (len(_fields(words)) or 2)


def _json(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    for number, row in read_json(path):
        words = next((row[name] for name in WORD_COLUMNS if name in row), None)
        tags = next((row[name] for name in TAG_COLUMNS if name in row), None)
        if not isinstance(words, list) or not isinstance(tags, list):
            raise UserError(
                f"'{path}' row {number} lacks words or tags: expected lists under "
                f"{WORD_COLUMNS[1]} and {TAG_COLUMNS[1]}"
            )
        if len(words) != len(tags):
            raise UserError(
                f"'{path}' row {number} has {len(words)} words and {len(tags)} tags: give every word one tag"
            )
        if wrong := [item for item in (*words, *tags) if not isinstance(item, str) or not item]:
            raise UserError(
                f"'{path}' row {number} has {wrong[0]!r} for a word or tag: write tags as names such as B-PER, not "
                "numbers, and leave nothing empty"
            )
        if words:
            yield words, tags


def _read_hub(task: Task, split: str) -> Sentences:
    from datasets import load_dataset

    try:
        data = load_dataset(str(task.hub_config), split=split)
    except Exception as error:  # the hub's clients raise a dozen unrelated types when it is out of reach
        raise UserError(
            f"can't load {task.name} from the hub ({task.hub_config}, {_cause(error)}): check the name and the "
            "network, or give --data_dir with CoNLL files (train.conll, dev.conll)"
        ) from error
    try:
        names = data.features["ner_tags"].feature.names
    except (KeyError, AttributeError):
        raise UserError(
            f"{task.hub_config} has the columns {', '.join(data.column_names)}: expected tokens and ner_tags (classes)"
        ) from None
    return {
        "text": list(data["tokens"]),
        "label": [[names[tag] for tag in tags] for tags in data["ner_tags"]],
    }


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def tag_names(examples: Mapping[str, Sentences]) -> list[str]:
    """Every tag of every split, sorted."""
    return sorted({tag for columns in examples.values() for tags in columns["label"] for tag in tags})


def metrics_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Entities' F1 where tags say where an entity begins; of other tags (parts of speech) the share that is right."""
    return TAG_METRICS if any(tag[:2] in ("B-", "I-") for tag in tags) else TAG_METRICS[-1:]


def word_encoder(
    tokenizer: PreTrainedTokenizerBase, max_length: int, ids: Mapping[str, int]
) -> Callable[[Sentences], Sentences]:
    """What turns sentences into token ids; the first piece of a word carries its tag, everything else :data:`IGNORE`.

    A word that the tokenizer knows no piece of becomes its unknown token. Words beyond ``max_length`` are not trained;
    the column ``cut`` keeps their tags, because they count as missed.

    Args:
        ids: the model's class number of each tag.
    """

    def encode(batch: Sentences) -> Sentences:
        sentences = [_without_empty(words, tokenizer) for words in batch["text"]]
        encoded = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=max_length)
        labels, cut = [], []
        for row, tags in enumerate(batch["label"]):
            before, aligned, whole = None, [], 0
            for word in encoded.word_ids(row):
                whole = whole if word is None else word + 1
                aligned.append(ids[tags[word]] if word is not None and word != before else IGNORE)
                before = word
            labels.append(aligned)
            cut.append([ids[tag] for tag in tags[whole:]])
        columns = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
        return columns | {"labels": labels, "cut": cut, "length": [len(row) for row in encoded["input_ids"]]}

    return encode


def _without_empty(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    pieces = tokenizer(list(words), add_special_tokens=False)["input_ids"]
    return [word if piece else str(tokenizer.unk_token) for word, piece in zip(words, pieces, strict=True)]
