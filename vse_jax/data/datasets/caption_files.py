"""Files of captions as people have them: tables, JSON lines and JSON.

Every reader yields a `CaptionRow` for each row or record that names a photo:

- tables (`.csv`, `.tsv`, `.txt`) with a header and the delimiter `,` `;` `|` or tab;
- Flickr8k's and Flickr30K's own `NAME#NUMBER<tab>CAPTION`, which has no header;
- JSON lines (`.jsonl`), and a JSON list (`.json`), of objects with a table's names;
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

from vse_jax.data.datasets import caption_columns, coco_annotations, text_files
from vse_jax.data.datasets.caption_columns import Columns
from vse_jax.data.datasets.caption_row import CaptionRow
from vse_jax.data.datasets.excerpts import excerpt, names
from vse_jax.errors import InputError

logger = logging.getLogger(__name__)

_DELIMITERS = ",;\t|"
_TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")
_NAMED = 10  # skipped rows that are named, each in a line
_EXPECTED_JSON = (
    "COCO's annotations, or a list of objects with an image and its captions"
)


@dataclasses.dataclass(frozen=True)
class Leniency:
    """What the options `strict` and `allowed_missing` say about broken rows.

    Attributes:
      strict: whether a row that could be skipped is refused.
      allowed: share of the rows that may be skipped, from 0 to 1.
    """

    strict: bool = False
    allowed: float = 0.05


def read_rows(path: epath.Path, leniency: Leniency) -> Iterator[CaptionRow]:
    """Yields the rows of a file of captions in their order.

    Args:
      path: of the file; its ending tells JSON from tables.
      leniency: what to do with broken rows of a table whose delimiter is `|`.

    Raises:
      InputError: if a row is invalid; names its line.
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
                "caption, as in the lines above"
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
        logger.info("%s: columns that are not read: %s", path, unread)
    broken = total = 0
    file = str(path)  # a path takes long to become text
    for line, fields in records:
        where, total = f"{file}: line {line}", total + 1
        if len(fields) == len(header):
            yield _row_of_fields(where, fields, columns)
            continue
        if delimiter != "|":
            raise InputError(_wrong_field_count(where, fields, header, delimiter))
        broken += 1  # Kaggle's results.csv has such a row
        _skip(where, fields, header, leniency, broken)
    if broken:
        _check_broken(path, broken, total, leniency)


def _without_separator_line(text: str) -> tuple[str, int]:
    """Removes Excel's `sep=;`; returns the rest, and how many lines were removed."""
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"\"?sep=.\"?", first.rstrip("\r")):
        return rest, 1
    return text, 0


def _delimiter_of(path: epath.Path, text: str) -> str:
    """Returns the delimiter with which the header names photos and captions."""
    headers = {delimiter: _header(text, delimiter) for delimiter in _DELIMITERS}
    complete = [
        delimiter
        for delimiter, header in headers.items()
        if all(caption_columns.recognized(header))
    ]
    if len(complete) > 1:
        found = " and by ".join(map(repr, complete))
        raise InputError(
            f"{path}: its header can be divided by {found}; expected one delimiter"
        )
    if complete:
        return complete[0]
    # None is right: the likeliest one gives the clearest message.
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
    """Yields the line at which a record begins, and its fields; skips empty ones."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    while True:
        start = line + reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: line {start} is no CSV ({error}); put fields with quotes "
                "into quotes, and double the quotes in them"
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
        f"({names([name.strip() for name in header])}): put captions that hold "
        f"{delimiter!r} into quotes"
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
            f"{message} ({names([name.strip() for name in header])}); mend the row, or "
            "set config.data.strict=False to skip such rows"
        )
    if count <= _NAMED:
        logger.warning("%s; skipped", message)


def _check_broken(path: epath.Path, broken: int, total: int, leniency: Leniency):
    if broken > leniency.allowed * total:
        raise InputError(
            f"{path}: {broken} of {total} rows have a wrong number of fields; expected "
            f"at most {leniency.allowed:.3g} of them; mend the rows, or set "
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
    known: dict[tuple[str, ...], Columns] = {}  # of the few sets of keys in a file
    for where, record in records:
        if not isinstance(record, dict):
            raise InputError(
                f"{where} is no JSON object, but {excerpt(record)}; expected an object "
                "with image and caption"
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
                f"{where} has {'a' if has_split else 'no'} split, but rows above have "
                f"{'none' if has_split else 'one'}; expected one in every row, or in "
                "none"
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
        raise InputError(f"{where} has the {name} {excerpt(value)}; expected a text")
    return value


def _parse(where: str, content: str, expected: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}); expected {expected}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a repeated key, of which Python keeps the last value alone."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {excerpt(repeated)} twice")
    for key in coco_annotations.UNUSED:
        entry.pop(key, None)  # most of the memory
    return entry
