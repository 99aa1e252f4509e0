"""`load_task`, `tokenize`: a task's rows with settled labels, then their tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prumux.data import tokens
from prumux.data.files import join_names
from prumux.data.sources import Examples, read_own_file, read_split
from prumux.data.tasks import TASKS, Task, get_task
from prumux.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class TaskData:
    """A task's rows with how to score them.

    Columns are ``text``, ``text_pair`` (pairs only) and ``label`` (a label NAME, or a float for regression); after
    :func:`tokenize` they are ``input_ids``, ``attention_mask``, ``token_type_ids``, ``labels`` and ``length``.
    With ``tokens``, ``text`` is a list of words and ``label`` a list of tag names.
    """

    name: str
    train: Dataset | None
    validation: Dataset | None
    label_names: list[str] | None  # None: regression
    metrics: tuple[str, ...]
    main_metric: str
    tokens: bool = False


def load_task(
    task_name: str | None = None,
    data_dir: str | Path | None = None,
    train_file: str | Path | None = None,
    validation_file: str | Path | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    splits: Sequence[str] = SPLITS,
    tag_words: bool = False,
    scores: bool = False,
) -> TaskData:
    """The rows of a task.

    Args:
        task_name: a name of :data:`prumux.data.tasks.TASKS`; may be left out when files are given.
        data_dir: folder of GLUE's own files, or the folder above it (``glue`` for ``glue/SST-2/train.tsv``); without
            it GLUE comes from the hub.
        train_file, validation_file: the user's own .csv, .tsv, .json or .jsonl files with a text column (or two), see
            :data:`prumux.data.sources.TEXT_COLUMNS`, and a label column; with ``task_name`` its columns, labels and
            metrics hold.
        max_train_samples, max_eval_samples: only the first rows.
        splits: which splits must be there; of the user's files those given are read.
        tag_words: the data are words with tags (see :mod:`prumux.data.tokens`), as NER's and .conll files always are.
        scores: the labels of the user's own files are scores, also where all of them happen to be whole numbers.

    Raises:
        UserError: unknown task, missing file or column, unknown label or a single one, no rows, hub out of reach.
    """
    if tag_words and task_name is not None and "/" in task_name:  # a data set of this kind on the hub
        task: Task | None = replace(TASKS["NER"], name=task_name.split("/")[-1], hub_config=task_name)
    else:
        task = None if task_name is None else get_task(task_name)
    if tag_words and task is not None and not task.tokens:
        raise UserError(
            f"{task.name} labels whole texts, not words: use run_glue.py, or name the task of the words (NER)"
        )
    tagged = [
        path
        for path in (train_file, validation_file)
        if Path(path or "").suffix.lower() in tokens.TAGGED_TYPES
    ]
    tag_words = tag_words or bool(tagged) or (task is not None and task.tokens)
    limits = check_limits(max_train_samples, max_eval_samples)
    files = {"train": train_file, "validation": validation_file}
    if given := {split: Path(path) for split, path in files.items() if path is not None}:
        if data_dir is not None:
            raise UserError(
                "--data_dir and --train_file/--validation_file exclude each other: give one of them"
            )
        if tag_words:
            examples = {split: tokens.read_file(path) for split, path in given.items()}
        else:
            examples = {split: read_own_file(path, task) for split, path in given.items()}
        sources = {split: str(path) for split, path in given.items()}
    elif task is None:
        raise UserError(
            f"no data named: give --task_name (one of {', '.join(TASKS)}) or --train_file and --validation_file"
        )
    elif tag_words:
        examples = {split: tokens.read_split(task, split, data_dir) for split in splits}
        sources = {split: f"the {split} split of {task.name}" for split in splits}
    else:
        examples = {split: read_split(task, split, data_dir) for split in splits}
        sources = {split: f"the {split} split of {task.name}" for split in splits}
    tags = tokens.tag_names(examples) if tag_words else []
    for split, columns in examples.items():
        if not columns["label"]:
            raise UserError(f"{sources[split]} holds no rows: give data with at least one row")
    label_names: list[str] | None  # of all rows, however few of them are used
    metrics: tuple[str, ...]
    if tag_words:
        label_names, metrics = tags, tokens.metrics_of(tags)
    else:
        label_names = _settle_labels(task, examples, sources, scores)
        metrics = task.metrics if task else ("pearson", "spearmanr") if label_names is None else ("accuracy",)
    if label_names is not None and len(label_names) < 2 and "train" in examples:
        kind = "tag" if tag_words else "label"
        raise UserError(
            f"every {kind} in {sources['train']} is '{label_names[0]}', so there is nothing to learn: give data with "
            f"at least two {kind}s"
        )
    for split, columns in examples.items():
        examples[split] = {name: values[: limits[split]] for name, values in columns.items()}
    return TaskData(
        name=task.name if task else next(iter(given.values())).stem,
        train=_dataset(examples.get("train")),
        validation=_dataset(examples.get("validation")),
        label_names=label_names,
        metrics=metrics,
        main_metric=metrics[0],
        tokens=tag_words,
    )


def check_limits(train: int | None, validation: int | None) -> dict[str, int | None]:
    """The most rows of each split; a UserError for a limit below 1."""
    limits = {"train": train, "validation": validation}
    for split, limit in limits.items():
        if limit is not None and limit < 1:
            raise UserError(
                f"at most {limit} {split} rows asked for: give at least 1, or leave the limit out"
            )
    return limits


def _dataset(columns: Examples | None) -> Dataset | None:
    from datasets import Dataset

    return None if columns is None else Dataset.from_dict(columns)


# ---- labels


def _settle_labels(
    task: Task | None, examples: dict[str, Examples], sources: Mapping[str, str], scores: bool
) -> list[str] | None:
    """Replace the labels in ``examples`` by label names or floats; return the names, None for regression."""
    first = next(iter(examples.values()))["label"]  # the training labels where there are any
    if task.is_regression if task else scores or _are_scores(first):
        for split, columns in examples.items():
            columns["label"] = [_score(label, sources[split]) for label in columns["label"]]
        return None
    names = list(task.label_names or ()) if task else sorted({_name(label) for label in first})
    if len({name.lower() for name in names}) < len(names):
        raise UserError(
            f"labels that differ in upper and lower case only: {join_names(names)}; rename one of each"
        )
    known = {name.lower(): name for name in names} | (dict(task.file_labels) if task else {})
    for split, columns in examples.items():
        labels = [known.get(_name(label).lower()) for label in columns["label"]]
        if None in labels:
            row = labels.index(None)
            raise UserError(
                f"unknown label '{columns['label'][row]}' in row {row + 1} of {sources[split]}: expected one of "
                f"{join_names(dict.fromkeys(known))}; correct the label or the task's name"
            )
        columns["label"] = labels
    return names


def _name(label: Any) -> str:
    return str(label).strip()


def _are_scores(labels: Sequence[Any]) -> bool:
    """All numbers, and not all of them whole: "1.0" and 2.5 are scores, "1" and 2 are classes."""
    if any(isinstance(label, bool) for label in labels):
        return False
    try:
        [float(label) for label in labels]
    except (TypeError, ValueError):
        return False
    return not all(_name(label).lstrip("+-").isdigit() for label in labels)


def _score(label: Any, source: str) -> float:
    try:
        if math.isfinite(score := float(label)):
            return score
    except (TypeError, ValueError):
        pass
    raise UserError(f"the label '{label}' in {source} is not a number: give a score, or name another task")


# ---- tokens


def tokenize(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    label2id: Mapping[str, int] | None = None,
) -> TaskData:
    """Rows as token ids, not padded, at most ``max_length`` tokens; labels as the model's class numbers.

    Args:
        data: rows with text, as :func:`load_task` gives them; not modified.
        tokenizer: its ``model_input_names`` decide whether there are ``token_type_ids``.
        max_length: tokens per row with the special ones; longer rows are cut.
        label2id: the model's ``config.label2id``; labels are matched by NAME (then without regard to case), never by
            position. None: the task's own order.

    Raises:
        UserError: a label the model doesn't have, or a ``max_length`` without room for text.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= special:
        raise UserError(
            f"a length of {max_length} tokens leaves no room for text: give at least {special + 1}"
        )
    ids = class_numbers(data, label2id)

    def encode_texts(batch: Examples) -> Examples:
        encoded = tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length)
        columns = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
        columns["labels"] = [label if ids is None else ids[label] for label in batch["label"]]
        columns["length"] = [len(row) for row in encoded["input_ids"]]
        return columns

    encode = tokens.word_encoder(tokenizer, max_length, ids or {}) if data.tokens else encode_texts

    def mapped(dataset: Dataset | None, split: str) -> Dataset | None:
        if dataset is None:
            return None
        return dataset.map(
            encode,
            batched=True,
            remove_columns=dataset.column_names,
            keep_in_memory=True,
            load_from_cache_file=False,
            desc=f"tokenize {split}",
        )

    return replace(data, train=mapped(data.train, "train"), validation=mapped(data.validation, "validation"))


def class_numbers(data: TaskData, label2id: Mapping[str, int] | None) -> dict[str, int] | None:
    """The model's number of each label, in the task's order; ``None`` for regression.

    Raises:
        UserError: a label the model doesn't have.
    """
    if data.label_names is None:
        return None
    if label2id is None:
        return {name: number for number, name in enumerate(data.label_names)}
    any_case = {name.lower(): number for name, number in label2id.items()}
    ids = {name: label2id.get(name, any_case.get(name.lower())) for name in data.label_names}
    if unknown := [name for name, number in ids.items() if number is None]:
        raise UserError(
            f"the model has no label {join_names(unknown)}: {data.name} has {join_names(data.label_names)}, the model "
            f"{join_names(label2id)}; take a model of this task or correct label2id in its config.json"
        )
    return {name: int(number) for name, number in ids.items() if number is not None}
