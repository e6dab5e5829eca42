"""Shortens values of files for messages."""

import json
import os
from typing import Any

_LENGTH = 60  # characters
_LONG = 80


def excerpt(value: Any, length: int = _LENGTH) -> str:
    """Returns the beginning of a value's `repr`, at most `length` characters.

    Args:
      value: any value, of any size.
      length: maximum length of the result in characters.
    """
    if isinstance(value, str):
        shown = repr(value[: length + 1])
    elif isinstance(value, list | tuple | dict):
        shown = _of_container(value)
    elif value is None or isinstance(value, bool):
        shown = json.dumps(value)  # these values come from JSON
    elif isinstance(value, int) and value.bit_length() > 3 * length:
        shown = "a huge number"  # Python may refuse to print it
    else:
        shown = repr(value)
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def short(value: Any) -> str:
    """Returns a value's `repr` on one line, at most 80 characters of it.

    It shows the entries of lists and objects, which options have few of; `excerpt` only
    counts them.

    Args:
      value: any value.
    """
    # That of an array has several lines.
    text = " ".join(line.strip() for line in repr(value).splitlines())
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def _of_container(value: list | tuple | dict) -> str:
    """Returns kind and size, as the `repr` may be as long as the file."""
    kind = "an object" if isinstance(value, dict) else "a list"
    return f"{kind} of {len(value)} entries"


def names(values: list[str], length: int = 3 * _LENGTH) -> str:
    """Returns values joined by commas, limited to about `length` characters."""
    shown, used = [], 0
    for value in values:
        part = printable(value)
        used += len(part) + 2
        if used > length and shown:
            return f"{', '.join(shown)} and {len(values) - len(shown)} more"
        shown.append(part)
    return ", ".join(shown)


def printable(path: str | os.PathLike, length: int = 200) -> str:
    """Returns a path on one line, with unprintable characters escaped.

    A path that is too long loses its middle.

    Args:
      path: any path; bytes that are not UTF-8 are escaped as by `os.fsdecode`.
      length: maximum length of the result in characters.
    """
    text = os.fspath(path)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    if len(text) <= length:
        return text
    return f"{text[: length // 2 - 3]}...{text[-length // 2 :]}"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
