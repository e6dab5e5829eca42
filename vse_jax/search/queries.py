"""Queries: weighted sums of texts, photos and rows of a gallery."""

import os
import re
from typing import NamedTuple

import numpy as np

from vse_jax.data.photo_inputs import Photo
from vse_jax.errors import InputError

_WEIGHTED = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*:\s*(.*)", re.DOTALL)
_OF_A_TEXT = re.compile(r"\s*\d+\s*:[\s\d]")  # 10:15, 16:9, "3: the door"
_LEAST, _LARGEST = 0.001, 1000.0  # weights; others would be lost to float32


class ReadPhoto(NamedTuple):
    """What `ImageInput.read` returned of a photo."""

    content: np.ndarray


class Part(NamedTuple):
    """A term of a query.

    Attributes:
      weight: factor of its embedding; negative to move away from it.
      text: words; None if the part is not a text.
      photo: a photo in any form that `RetrievalModel.embed_images` takes, or one that
        was read before; None if the part is not a photo.
      row: number of a row of the gallery; None if the part is not a row.
    """

    weight: float
    text: str | None = None
    photo: Photo | ReadPhoto | None = None
    row: int | None = None

    @property
    def name(self) -> str:
        """What the part is, for people."""
        if self.text is not None:
            return self.text
        if self.row is not None:
            return f"row {self.row}"
        is_path = isinstance(self.photo, str | os.PathLike)
        return os.fspath(self.photo) if is_path else "a photo"


class Query(NamedTuple):
    """A sum of parts, such as "a dog" minus "snow"."""

    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The query in one line, for people."""
        text = ""
        for part in self.parts:
            sign = "-" if part.weight < 0 else "+"
            factor = abs(part.weight)
            name = part.name if factor == 1 else f"{float(factor)}:{part.name}"
            if text or sign == "-":
                name = f" {sign} {name}"
            text += name
        return text.strip()

    @property
    def texts(self) -> list[str]:
        """The texts among the parts."""
        return [part.text for part in self.parts if part.text is not None]

    def check(self) -> "Query":
        """Returns the query; raises InputError if it or a weight is invalid."""
        if not self.parts:
            raise InputError("the query is empty; expected words or a photo")
        for part in self.parts:
            if part.text is not None and not part.text.strip():
                raise InputError("the query is empty; expected at least one word")
            if isinstance(part.photo, str) and not part.photo.strip():
                raise InputError("the query is empty; expected the path of a photo")
            if not _LEAST <= abs(part.weight) <= _LARGEST:  # NaN is neither
                raise InputError(
                    f"the weight of {part.name!r} is {part.weight}; expected a number "
                    f"from {_LEAST} to {_LARGEST}"
                )
        return self


def parse_weighted(text: str) -> tuple[float, str]:
    """Splits `0.5:snow` into the weight and the rest; the default weight is 1.

    A whole number without a sign is no weight if a digit or a space follows the colon,
    as in `10:15`. `1.0:` may precede a text that begins like a weight.
    """
    match = _WEIGHTED.fullmatch(text)
    if match is None or _OF_A_TEXT.match(text):
        return 1.0, text
    return float(match[1]), match[2]


def text_query(text: str) -> Query:
    """Returns the query of a text alone; a weight in it is part of the text."""
    return Query((Part(1.0, text=text),)).check()


def combined(
    texts: list[str], minus: list[str], photos: list[str], minus_photos: list[str]
) -> Query:
    """Returns the sum of texts and photos, minus others.

    Each may begin with a weight, such as `0.5:snow`.

    Raises:
      InputError: if there is no part, or if a part is empty.
    """
    parts = [_part(1, text=text) for text in texts]
    parts += [_part(1, photo=photo) for photo in photos]
    parts += [_part(-1, text=text) for text in minus]
    parts += [_part(-1, photo=photo) for photo in minus_photos]
    return Query(tuple(parts)).check()


def _part(sign, text=None, photo=None) -> Part:
    weight, value = parse_weighted(photo if text is None else text)
    if text is None:
        return Part(sign * weight, photo=value)
    return Part(sign * weight, text=value)
