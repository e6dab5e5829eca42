"""Reads the files of Crisscrossed Captions: human judgements of pairs, from 0 to 5.

The files are `sts_test.csv` (two captions), `sis_test.csv` (two images) and
`sits_test.csv` (a caption and an image), as published in
https://github.com/google-research-datasets/Crisscrossed-Captions. A caption is
`COCO_val2014:sentid:NUMBER`, an image `COCO_val2014_NUMBER.jpg`.
"""

import csv
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from vse_jax.errors import InputError
from vse_jax.evaluation.coco_test import CocoTest
from vse_jax.excerpts import excerpt
from vse_jax.text_files import read_text

logger = logging.getLogger(__name__)

_HIGHEST = 5.0
_DECIMAL = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_COLUMNS = {
    "sts_test.csv": ("caption1", "caption2"),
    "sis_test.csv": ("image1", "image2"),
    "sits_test.csv": ("caption", "image"),
}
_PUBLISHED_ROWS = {
    "sts_test.csv": 44_045,
    "sis_test.csv": 46_719,
    "sits_test.csv": 44_833,
}
_NUMBERS = {
    "caption": re.compile(r"COCO_val2014:sentid:(\d{1,12})"),
    "image": re.compile(r"COCO_val2014_(\d{12})\.jpg"),
}


class Judgements(NamedTuple):
    """Judged pairs, in the order of the file.

    Attributes:
      first: int64 `[pairs]`, row of a caption or image in `CocoTest`.
      second: int64 `[pairs]`, the same of the other item.
      score: float64 `[pairs]`, from 0 to 5.
    """

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray


def read(folder: str, name: str, coco: CocoTest) -> Judgements:
    """Reads a file of judgements.

    Args:
      folder: folder of the file.
      name: `sts_test.csv`, `sis_test.csv` or `sits_test.csv`.
      coco: numbers of the images and captions.

    Raises:
      InputError: if the file cannot be read, or if a row is invalid or has an unknown
        caption or image.
    """
    path = epath.Path(folder).expanduser() / name
    if not path.exists():
        raise InputError(
            f"{path}: does not exist; set config.evaluation.cxc to the folder of CxC's "
            f"{', '.join(_COLUMNS)}"
        )
    known = {"caption": coco.caption_row, "image": coco.image_row}
    columns = [(column, known[column.rstrip("12")]) for column in _COLUMNS[name]]
    rows = [
        (*(_row_of(where, c, text, k) for text, (c, k) in pairs), _score(where, score))
        for where, pairs, score in _records(path, columns)
    ]
    if not rows:
        raise InputError(f"{path}: has no judgements below its header")
    if len(rows) != _PUBLISHED_ROWS[name]:
        logger.warning(
            "%s: has %d judgements, but CxC's file has %d; correlations and right "
            "answers are those of this file",
            path,
            len(rows),
            _PUBLISHED_ROWS[name],
        )
    first, second, score = map(np.array, zip(*rows, strict=True))
    return Judgements(first, second, score)


def _records(path: epath.Path, columns) -> Iterator[tuple]:
    """Yields the place of each row, its two items with their columns, and its score."""
    expected = [*(column for column, _ in columns), "agg_score"]
    lines = _fields(path)
    _, header = next(lines, (1, []))
    if header[:3] != expected:
        raise InputError(
            f"{path}: line 1 is {excerpt(','.join(header))}; expected a header that "
            f"begins with {','.join(expected)}"
        )
    for number, fields in lines:
        where = f"{path}: line {number}"
        if len(fields) != len(header):
            raise InputError(
                f"{where} has {len(fields)} fields; expected {len(header)}, as in the "
                "header"
            )
        yield where, list(zip(fields, columns, strict=False)), fields[2]


def _fields(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the fields of each line that is not blank."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            fields = next(csv.reader([line]), [])
        except csv.Error as error:
            raise InputError(
                f"{path}: line {number} is not valid CSV ({error}); download the file "
                "again"
            ) from None
        if any(map(str.strip, fields)):
            yield number, fields


def _row_of(where: str, column: str, text: str, known: dict[int, int]) -> int:
    kind = column.rstrip("12")
    match = _NUMBERS[kind].fullmatch(text)
    row = known.get(int(match[1])) if match else None
    if row is None:
        raise InputError(
            f"{where} has the {column} {excerpt(text)}, which is no {kind} of COCO's "
            "test split; expected CxC's files for the test split"
        )
    return row


def _score(where: str, text: str) -> float:
    # Python's own form of a number may have underscores, and digits of any script.
    score = float(text) if _DECIMAL.fullmatch(text.strip()) else -1.0
    if not 0 <= score <= _HIGHEST:
        raise InputError(
            f"{where} has the agg_score {excerpt(text)}; expected a number from 0 to 5"
        )
    return score
