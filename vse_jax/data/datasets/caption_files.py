"""Reads captions files: tables, JSON lines and JSON.

Every reader yields a `CaptionRow` for each row or record. The formats are:

- tables (`.csv`, `.tsv`, `.txt`) with a header and the delimiter `,` `;` `|` or tab;
- Flickr8k's and Flickr30K's `NAME#NUMBER<tab>CAPTION`, without a header;
- JSON lines (`.jsonl`) or a JSON list (`.json`) of objects, whose keys are named like a
  table's columns;
- COCO's annotations (`.json`), see `coco_annotations`.
"""

import csv
import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from vse_jax import text_files
from vse_jax.data.datasets import caption_columns, coco_annotations
from vse_jax.data.datasets.caption_columns import Columns
from vse_jax.data.datasets.caption_row import CaptionRow
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt, names

logger = logging.getLogger(__name__)

_DELIMITERS = ",;\t|"
_TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")
_NAMED = 10  # skipped rows that are logged, one line each
_EXPECTED_JSON = (
    "COCO's annotations, or a list of objects with an image and its captions"
)


@dataclasses.dataclass(frozen=True)
class Leniency:
    """The options `strict` and `allowed_missing` for invalid rows.

    Attributes:
      strict: whether an invalid row is an error instead of being skipped.
      allowed: share of rows that may be skipped, from 0 to 1.
    """

    strict: bool = False
    allowed: float = 0.05


def read_rows(path: epath.Path, leniency: Leniency) -> Iterator[CaptionRow]:
    """Yields the rows of a captions file in order.

    Args:
      path: path of the file; its extension distinguishes JSON from tables.
      leniency: how to treat invalid rows of a table with the delimiter `|`.

    Raises:
      InputError: if a row is invalid; the message names its line.
    """
    text = text_files.read_text(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _rows_of_json_lines(path, text)
    if suffix == ".json":
        return _rows_of_json(path, text)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if _TOKEN.match(first):
        return _rows_of_tokens(path, text)
    return _rows_of_table(path, text, leniency)


def _rows_of_tokens(path: epath.Path, text: str) -> Iterator[CaptionRow]:
    file = str(path)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        parts = _TOKEN.fullmatch(line.rstrip("\r"))
        if parts is None:
            raise InputError(
                f"{where} is {excerpt(line)}; expected NAME#NUMBER, a tab and the "
                "caption, as in the first line"
            )
        captions = caption_columns.captions_of(where, parts[2])
        yield CaptionRow(where, parts[1], captions)


def _rows_of_table(
    path: epath.Path, text: str, leniency: Leniency
) -> Iterator[CaptionRow]:
    text, skipped_lines = _without_separator_line(text)
    delimiter = _delimiter_of(path, text)
    records = _records(path, text, delimiter, skipped_lines)
    line, header = next(records, (0, None))
    if header is None:
        return
    columns = caption_columns.find_columns(f"{path}: line {line}", header)
    if columns.unread:
        unread = names([name.strip() for name in columns.unread])
        logger.info("%s: ignored columns: %s", path, unread)
    broken = total = 0
    file = str(path)  # converting a path to text is slow
    for line, fields in records:
        where, total = f"{file}: line {line}", total + 1
        if len(fields) == len(header):
            yield _row_of_fields(where, fields, columns)
            continue
        if delimiter != "|":
            raise InputError(_wrong_field_count(where, fields, header, delimiter))
        broken += 1  # Kaggle's results.csv has one such row
        _skip(where, fields, header, leniency, broken)
    if broken:
        _check_broken(path, broken, total, leniency)


def _without_separator_line(text: str) -> tuple[str, int]:
    """Removes Excel's `sep=;`; returns the rest and the number of removed lines."""
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"\"?sep=.\"?", first.rstrip("\r")):
        return rest, 1
    return text, 0


def _delimiter_of(path: epath.Path, text: str) -> str:
    """Returns the delimiter that yields an image and a caption column."""
    headers = {delimiter: _header(text, delimiter) for delimiter in _DELIMITERS}
    complete = [
        delimiter
        for delimiter, header in headers.items()
        if all(caption_columns.recognized(header))
    ]
    if len(complete) > 1:
        found = " and by ".join(map(repr, complete))
        raise InputError(
            f"{path}: the header can be split by {found}; expected one delimiter"
        )
    if complete:
        return complete[0]
    # No delimiter is valid; the most likely one gives the clearest message.
    return max(
        _DELIMITERS,
        key=lambda d: (sum(caption_columns.recognized(headers[d])), len(headers[d])),
    )


def _header(text: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        return next((fields for fields in reader if any(map(str.strip, fields))), [])
    except csv.Error:
        return []


def _records(
    path: epath.Path, text: str, delimiter: str, line: int
) -> Iterator[tuple[int, list[str]]]:
    """Yields the first line and the fields of each record; skips empty records."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    while True:
        start = line + reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: line {start} is not valid CSV ({error}); enclose fields that "
                "contain quotes in quotes, and double the quotes in them"
            ) from None
        if fields is None:
            return
        if any(map(str.strip, fields)):
            yield start, fields


def _row_of_fields(where: str, fields: list[str], columns: Columns) -> CaptionRow:
    captions = [
        caption
        for column in columns.captions
        for caption in caption_columns.captions_of(where, fields[column])
    ]
    split = None if columns.split is None else fields[columns.split]
    return CaptionRow(where, fields[columns.image], captions, split)


def _wrong_field_count(
    where: str, fields: Sequence[str], header: Sequence[str], delimiter: str
) -> str:
    return (
        f"{where} has {len(fields)} fields; expected {len(header)} "
        f"({names([name.strip() for name in header])}); enclose captions that contain "
        f"{delimiter!r} in quotes"
    )


def _skip(
    where: str,
    fields: Sequence[str],
    header: Sequence[str],
    leniency: Leniency,
    count: int,
) -> None:
    message = f"{where} has {len(fields)} fields; expected {len(header)}"
    if leniency.strict:
        raise InputError(
            f"{message} ({names([name.strip() for name in header])}); fix the row, or "
            "set config.data.strict=False to skip such rows"
        )
    if count <= _NAMED:
        logger.warning("%s; skipped", message)


def _check_broken(path: epath.Path, broken: int, total: int, leniency: Leniency):
    if broken > leniency.allowed * total:
        raise InputError(
            f"{path}: {broken} of {total} rows have the wrong number of fields; "
            f"expected at most a share of {leniency.allowed:.3g}; fix the rows, or set "
            "config.data.allowed_missing to a larger share"
        )
    logger.warning("%s: skipped %d of %d rows", path, broken, total)


def _rows_of_json_lines(path: epath.Path, text: str) -> Iterator[CaptionRow]:
    file = str(path)
    records = (
        (f"{file}: line {number}", _parse(f"{file}: line {number}", line, "an object"))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    )
    return _rows_of_objects(records)


def _rows_of_json(path: epath.Path, text: str) -> Iterator[CaptionRow]:
    content = _parse(str(path), text, _EXPECTED_JSON)
    if isinstance(content, list):
        file = str(path)
        records = ((f"{file}: [{i}]", record) for i, record in enumerate(content))
        return _rows_of_objects(records)
    return coco_annotations.rows(path, content)


def _rows_of_objects(records: Iterator[tuple[str, Any]]) -> Iterator[CaptionRow]:
    has_splits = None
    known: dict[tuple[str, ...], Columns] = {}  # a file has few distinct sets of keys
    for where, record in records:
        if not isinstance(record, dict):
            raise InputError(
                f"{where} is {excerpt(record)}; expected a JSON object with image and "
                "caption"
            )
        keys = tuple(record)
        if keys not in known:
            known[keys] = caption_columns.find_columns(where, keys)
        columns = known[keys]
        has_split = columns.split is not None
        if has_splits is None:
            has_splits = has_split
        if has_split != has_splits:
            raise InputError(
                f"{where} has {'a' if has_split else 'no'} split, but the rows above "
                f"have {'none' if has_split else 'one'}; expected a split in every row "
                "or in none"
            )
        yield _row_of_object(where, list(record.values()), columns)


def _row_of_object(where: str, values: list, columns: Columns) -> CaptionRow:
    captions = [
        caption
        for column in columns.captions
        for caption in caption_columns.captions_of(where, values[column])
    ]
    image = _text(where, "image", values[columns.image])
    split = None
    if columns.split is not None:
        split = _text(where, "split", values[columns.split])
    return CaptionRow(where, image, captions, split)


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} has the {name} {excerpt(value)}; expected a string")
    return value


def _parse(where: str, content: str, expected: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is not valid JSON ({error}); expected {expected}"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a repeated key, where Python keeps only the last value."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {excerpt(repeated)} twice")
    for key in coco_annotations.UNUSED:
        entry.pop(key, None)  # these would take most of the memory
    return entry
