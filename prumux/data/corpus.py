"""Plain text for the phases before a task is known: from files or the hub, packed into rows of the full length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from prumux.data.loading import TaskData, check_limits
from prumux.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CORPORA = {"wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1")}  # by name, on the hub
TEXT_TYPES = (".txt", ".text")
HELD_OUT, MOST_HELD_OUT = 0.05, 1000  # rows for evaluation where no file is named for it
LINES = 1000  # tokenised at once


def is_corpus(name: str | None, train_file: str | None, validation_file: str | None) -> bool:
    """Is this plain text: a corpus by name, or files that end in .txt."""
    file = train_file or validation_file
    return name in CORPORA if file is None else Path(file).suffix.lower() in TEXT_TYPES


def load_corpus(
    name: str | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    train_file: str | None = None,
    validation_file: str | None = None,
    *,
    line_by_line: bool = False,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
) -> TaskData:
    """Rows of token ids, at most ``max_length`` with the special ones.

    Lines are joined with the tokenizer's separator and cut into rows of the full length, unless ``line_by_line``, where
    each is a row of its own. Without ``validation_file`` the last 5 % of the rows (1000 at most) are held out.

    Raises:
        UserError: no such file, too little text, or the hub out of reach.
    """
    check_limits(max_train_samples, max_eval_samples)
    if max_length < 4:
        raise UserError(f"max_seq_length {max_length} is too small: give at least 4 tokens")
    if train_file is None and validation_file is None:
        title = str(name)
        lines = {split: _hub_lines(title, split) for split in ("train", "validation")}
    else:
        title = name or Path(str(train_file or validation_file)).stem
        files = {"train": train_file, "validation": validation_file}
        lines = {split: _file_lines(Path(file)) for split, file in files.items() if file is not None}
    limits = {"train": max_train_samples, "validation": max_eval_samples}
    rows = {
        split: _rows(
            found, tokenizer, max_length, line_by_line, None if "validation" not in lines else limits[split]
        )
        for split, found in lines.items()
    }
    if "validation" not in rows:
        held_out = min(MOST_HELD_OUT, max(1, int(len(rows["train"]) * HELD_OUT)))
        cut = len(rows["train"]) - held_out
        rows = {
            "train": rows["train"][:cut][:max_train_samples],
            "validation": rows["train"][cut:][:max_eval_samples],
        }
    for split, found in rows.items():
        if not found:
            size = "" if line_by_line else f" of {max_length} tokens"
            raise UserError(
                f"{title} has too little text for a {split} row{size}: give more text, "
                f"{'one line at least' if line_by_line else 'or a smaller --max_seq_length'}"
            )
    return TaskData(
        name=title,
        train=_dataset(rows.get("train")),
        validation=_dataset(rows["validation"]),
        label_names=None,
        metrics=(),
        main_metric="",
    )


def _file_lines(file: Path) -> Iterator[str]:
    if not file.is_file():
        raise UserError(f"no such file: '{file}': correct --train_file or --validation_file")
    try:
        with file.open(encoding="utf-8-sig") as opened:
            yield from opened
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read '{file}' ({error}): expected UTF-8 text") from None


def _hub_lines(name: str, split: str) -> Iterator[str]:
    from datasets import load_dataset

    repository, config = CORPORA[name]
    try:
        data = load_dataset(repository, config, split=split)
    except Exception as error:  # the hub's clients raise a dozen unrelated types when it is out of reach
        raise UserError(
            f"can't load {name} from the hub ({repository}, {type(error).__name__}): check the network, or give "
            "--train_file with plain text"
        ) from error
    for row in data:
        yield row["text"]


def _rows(
    lines: Iterator[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    line_by_line: bool,
    limit: int | None,
) -> list[np.ndarray]:
    """At most ``limit`` rows of token ids."""
    first = [tokenizer.cls_token_id]
    last = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
    room = max_length - len(first) - len(last)
    rows: list[np.ndarray] = []
    open_row: list[int] = []
    for batch in tqdm(_batches(lines), desc="tokenize", unit=f"x {LINES:,} lines", leave=False, disable=None):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            if not line_by_line:
                open_row += [*(last if open_row else []), *ids]
                full = len(open_row) // room * room
                for start in range(0, full, room):
                    rows.append(np.array([*first, *open_row[start : start + room], *last], dtype=np.int32))
                del open_row[:full]
            elif ids:
                rows.append(np.array([*first, *ids[:room], *last], dtype=np.int32))
        if limit is not None and len(rows) >= limit:
            return rows[:limit]
    return rows


def _batches(lines: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in lines:
        if line.strip():
            batch.append(line.strip())
        if len(batch) == LINES:
            yield batch
            batch = []
    if batch:
        yield batch


def _dataset(rows: Sequence[np.ndarray] | None) -> Dataset | None:
    from datasets import Dataset

    if rows is None:
        return None
    return Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})
