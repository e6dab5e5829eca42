"""Finds the columns of a captions file with the photo, its captions and its split.

The names are those of published files: Kaggle's, Hugging Face's, Karpathy's. Case and
surrounding spaces are ignored; spaces and hyphens equal underscores.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt, names

IMAGE_NAMES = (
    "image",
    "image_name",
    "image_path",
    "image_file",
    "image_file_name",
    "image_filename",
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "path",
    "img",
    "img_path",
)
CAPTION_NAMES = (
    "caption",
    "captions",
    "comment",
    "comments",
    "text",
    "texts",
    "title",
    "raw",
    "sentence",
    "sentences",
)
SPLIT_NAME = "split"
# `caption_0` and `caption1`, and `caption.1`, pandas' name for a repeated column.
_NUMBERED = re.compile(r"(.+?)[_.]?\d+")
_LISTS = re.compile(r"\[\s*['\"].*\]", re.DOTALL)
_PYTHON_STRING = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
# Commas are required: without them Python would join adjacent strings.
_PYTHON_LIST = re.compile(
    rf"\[\s*{_PYTHON_STRING}(?:\s*,\s*{_PYTHON_STRING})*\s*,?\s*\]", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Indices of the columns that are read.

    Attributes:
      image: index of the column with the photo's path.
      captions: indices of the caption columns, at least one.
      split: index of the split column; None if there is none.
      unread: names of the other columns.
    """

    image: int
    captions: tuple[int, ...]
    split: int | None
    unread: tuple[str, ...]


def recognized(header: Sequence[str]) -> tuple[bool, bool]:
    """Returns whether a header has an image column, and whether a caption column."""
    kinds = [_kind(name) for name in header]
    return "image" in kinds, any(kind in CAPTION_NAMES for kind in kinds)


def find_columns(where: str, header: Sequence[str]) -> Columns:
    """Returns the columns of a header.

    Args:
      where: file and line, for messages.
      header: names of the columns.

    Raises:
      InputError: if an image or caption column is missing or ambiguous.
    """
    kinds = [_kind(name) for name in header]
    images = [i for i, kind in enumerate(kinds) if kind == "image"]
    captions = [i for i, kind in enumerate(kinds) if kind in CAPTION_NAMES]
    splits = [i for i, kind in enumerate(kinds) if kind == SPLIT_NAME]
    for found, kind, expected in (
        (images, "image", IMAGE_NAMES),
        (captions, "caption", CAPTION_NAMES),
    ):
        if not found:
            raise InputError(
                f"{where} has no {kind} column (found: "
                f"{names(list(header)) or 'nothing'}); expected one of "
                f"{', '.join(expected)}"
            )
    _check_one(where, header, images, "photos")
    _check_one(where, header, splits, "splits")
    first_of_each = {kinds[i]: i for i in reversed(captions)}
    _check_one(where, header, sorted(first_of_each.values()), "captions")
    read = {*images, *captions, *splits}
    unread = tuple(name for i, name in enumerate(header) if i not in read and name)
    split = splits[0] if splits else None
    return Columns(images[0], tuple(captions), split, unread)


def _kind(name: str) -> str:
    """Returns `image`, `split`, a caption name without its number, or the name."""
    plain = re.sub(r"[\s-]+", "_", name.strip().casefold())
    if plain in IMAGE_NAMES:
        return "image"
    numbered = _NUMBERED.fullmatch(plain)
    if numbered and numbered[1] in CAPTION_NAMES:
        return numbered[1]
    return plain


def _check_one(where: str, header: Sequence[str], found: list[int], of: str) -> None:
    if len(found) > 1:
        first, second = (excerpt(header[i].strip()) for i in found[:2])
        raise InputError(
            f"{where} has two columns that may hold the {of}, {first} and {second}; "
            "rename or remove one of them"
        )


def captions_of(where: str, value: Any) -> list[str]:
    """Returns the captions of a cell or a JSON value, without empty ones.

    Args:
      where: file and line, for messages.
      value: a string, which may be a list in JSON or Python notation; a list of
        strings; or None.

    Raises:
      InputError: if the value is anything else.
    """
    if value is None:
        return []
    if isinstance(value, str):
        text = value.strip()
        if not _LISTS.fullmatch(text):
            return [text] if text else []
        value = _parse_list(where, text)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError(
            f"{where} has a caption that is not a string: {excerpt(value)}; expected a "
            "string or a list of strings"
        )
    return [text for text in (text.strip() for text in value) if text]


def _parse_list(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if _PYTHON_LIST.fullmatch(text):  # as pandas writes lists
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    raise InputError(
        f"{where} has a caption that looks like a list but is invalid: "
        f'{excerpt(text)}; expected JSON, such as ["first", "second"]'
    )
