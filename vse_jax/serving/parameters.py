"""Parses the parameters of a search, from a URL or a form."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vse_jax.search.queries import Part, Query, parse_weighted
from vse_jax.serving.answers import RequestError
from vse_jax.serving.batcher import Search

DEFAULT_RESULTS = 24
MAXIMUM_RESULTS = 1000
MAXIMUM_TEXT = 1000  # characters
MAXIMUM_PARTS = 16
# Kinds of parts by the names of their parameters, with their signs.
TEXTS = {"q": 1.0, "minus": -1.0}
ROWS = {"like": 1.0, "unlike": -1.0}
PHOTOS = {"photo": 1.0, "minus_photo": -1.0}
_SINGLE = ("k", "threshold")
_EXPECTED = ", ".join([*TEXTS, *ROWS, *PHOTOS, *_SINGLE])


class Parameter(NamedTuple):
    """A parameter: its name, and a text or the content of a file."""

    name: str
    value: str | bytes


def parse(
    parameters: Iterable[Parameter], row_of: Callable[[str], int | None]
) -> Search:
    """Returns what to search.

    Args:
      parameters: in any order. All but `k` and `threshold` may be repeated. Texts may
        begin with a weight, such as `0.5:snow`.
      row_of: returns the row of an ID; None if there is none.

    Raises:
      RequestError: if a parameter is unknown or invalid; names it.
      InputError: if the query is empty.
    """
    parts, single = [], {}
    for name, value in parameters:
        if name in _SINGLE:
            if name in single:
                raise RequestError(400, f"{name} is given twice; expected once")
            single[name] = _text(name, value)
        else:
            parts.append(_part(name, value, row_of))
    if len(parts) > MAXIMUM_PARTS:
        raise RequestError(
            400, f"the query has {len(parts)} parts; expected at most {MAXIMUM_PARTS}"
        )
    return Search(
        Query(tuple(parts)).check(),
        _results(single.get("k", str(DEFAULT_RESULTS))),
        _threshold(single.get("threshold")),
    )


def _part(name, value, row_of) -> Part:
    if name in PHOTOS:
        if isinstance(value, str):
            raise RequestError(400, f"{name} is a text; expected a file")
        return Part(PHOTOS[name], photo=value)
    text = _text(name, value)
    if name in ROWS:
        row = row_of(text)
        if row is None:
            raise RequestError(404, f"{name}: the gallery has no item {text[:100]!r}")
        return Part(ROWS[name], row=row)
    if name not in TEXTS:
        raise RequestError(
            400, f"unknown parameter {name[:100]!r}; expected {_EXPECTED}"
        )
    if len(text) > MAXIMUM_TEXT:
        raise RequestError(
            400,
            f"{name} has {len(text):,} characters; expected at most {MAXIMUM_TEXT:,}",
        )
    weight, text = parse_weighted(text)
    return Part(TEXTS[name] * weight, text=text)


def _text(name, value):
    if not isinstance(value, str):
        raise RequestError(400, f"{name[:100]} is a file; expected a text")
    return value


def _results(text: str) -> int:
    # Not `int` alone, which takes other digits, spaces and underscores.
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= number <= MAXIMUM_RESULTS:
        raise RequestError(
            400, f"k is {text[:20]!r}; expected a number from 1 to {MAXIMUM_RESULTS:,}"
        )
    return number


def _threshold(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(
            400, f"threshold is {text[:20]!r}; expected a number, such as 0.3"
        )
    return number
