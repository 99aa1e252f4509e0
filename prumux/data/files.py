"""Rows of text files: tab-separated, CSV and JSON, each row with its line number for the errors."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prumux.errors import UserError

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a file of the type that its name says, JSON where it says none of the others."""
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".txt"):
        return read_tsv(path)
    return _read_csv(path) if suffix == ".csv" else read_json(path)


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"can't read '{path}' ({error.strerror}): check its permissions") from None


def read_tsv(path: Path, header: Sequence[str] = (), lenient: bool = False) -> Iterator[tuple[int, Row]]:
    """Tab-separated, quotes are plain characters (as in GLUE). ``header`` names the columns of a file without.

    ``lenient`` ignores surplus fields and skips rows that lack some.
    """
    lines = _text_of(path).split("\n")
    skipped = 0
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if not header:
            header = [name.strip() for name in fields]
        elif len(fields) == len(header) or (lenient and len(fields) > len(header)):
            yield number, dict(zip(header, fields, strict=False))
        elif lenient and len(fields) > 1:  # the published QQP has such rows
            skipped += 1
        else:
            raise UserError(
                f"'{path}' line {number} has {len(fields)} fields for the {len(header)} columns {join_names(header)}: "
                "separate the columns by one tab each"
            )
    if skipped:
        logger.warning("skipped %d rows with missing fields in %s", skipped, path)


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    """Comma-separated, quoted as spreadsheets do."""
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row:  # surplus fields: a comma in a text that is not quoted would cut it
                raise UserError(
                    f"'{path}' line {reader.line_num} has more fields than columns: quote texts with \"\""
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"'{path}' line {reader.line_num} is not CSV ({error}): quote texts with \"\""
        ) from None


def read_json(path: Path) -> Iterator[tuple[int, Row]]:
    """A list of objects, ``{"data": [...]}``, or an object per line."""
    text = _text_of(path)
    try:
        whole = json.loads(text) if path.suffix.lower() == ".json" else None
    except json.JSONDecodeError:
        whole = None  # an object per line, or an error told below with its line
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    try:
        lines = enumerate(text.split("\n"), start=1)
        items = (
            enumerate(whole, start=1)
            if isinstance(whole, list)
            else ((number, json.loads(line)) for number, line in lines if line.strip())
        )
        for number, item in items:
            if not isinstance(item, dict):
                raise UserError(
                    f'\'{path}\' item {number} is not an object: expected {{"text": ..., "label": ...}}'
                )
            _refuse_half_characters(path, number, item)
            yield number, item
    except json.JSONDecodeError as error:
        raise UserError(
            f"'{path}' is not JSON ({error}): expected a list of objects or one per line"
        ) from None


def _refuse_half_characters(path: Path, number: int, item: Row) -> None:
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"'{path}' item {number} holds half a character (a lone \\ud800 to \\udfff): write whole ones"
        ) from None


def join_names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
