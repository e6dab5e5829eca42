"""Draws captions of any script into pictures."""

import functools
import itertools
import logging
import unicodedata
from collections.abc import Iterator

from icu4py.breakers import CharacterBreaker, LineBreaker
from PIL import ImageDraw, features

from vse_jax.evaluation.fonts import Font, Fonts

logger = logging.getLogger(__name__)

FONT_SIZE = 12  # pixels
LINE_HEIGHT = FONT_SIZE + 4
_PLAIN = str.maketrans("。、「」『』《》“”‘’–—…", '.,""""""""\'\'--.')  # noqa: RUF001
_WITH_CJK = ("HIRAGANA", "KATAKANA", "BOPOMOFO")  # scripts reported as CJK
_JOINS_PREVIOUS = ("Cf", "Me", "Mn", "Zs")  # categories that keep a run's font


@functools.cache
def system_fonts() -> Fonts:
    """Returns the installed fonts; they are searched once."""
    return Fonts(FONT_SIZE)


def draw_text(
    draw: ImageDraw.ImageDraw,
    position: tuple[int, int],
    text: str,
    width: int,
    fill: tuple[int, int, int],
    fonts: Fonts,
) -> int:
    """Draws a text in lines that fit a width.

    Characters that no font has are replaced, see `drawable`.

    Args:
      draw: drawing context of the picture.
      position: left and top of the first line, pixels.
      text: text in any script.
      width: maximum width of a line, pixels.
      fill: color of the text.
      fonts: fonts of `FONT_SIZE`.

    Returns:
      The top of the next line, pixels.
    """
    left, top = position
    for line in wrap(drawable(text, fonts), width, fonts):
        right = left
        for font, run in _runs(line, fonts):
            # Fonts of different heights share a baseline.
            draw.text((right, top + FONT_SIZE), run, fill, font.font, anchor="ls")
            right += font.font.getlength(run)
        top += LINE_HEIGHT
    return top


def drawable(text: str, fonts: Fonts) -> str:
    """Replaces the characters that no font has, and logs this once per script.

    An accented or full-width form becomes the plain one. A symbol becomes its name in
    brackets, and letters become their number and script, such as `[5 THAI]`.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    can_shape = features.check("raqm")
    text = "".join(c for c in text if not _is_ignored(c, can_shape))
    if not can_shape and any(unicodedata.bidirectional(c) in ("R", "AL") for c in text):
        _warn_once(
            "pictures: Arabic and Hebrew are drawn from left to right, because Pillow "
            "lacks raqm; install a Pillow wheel that has it"
        )
    runs = itertools.groupby(text, lambda character: _missing(character, fonts))
    return "".join(
        _replacement("".join(run), script, fonts) if script else "".join(run)
        for script, run in runs
    )


def wrap(text: str, width: int, fonts: Fonts) -> list[str]:
    """Breaks a text into lines, between words or where its script allows.

    Args:
      text: text to break.
      width: maximum width of a line, pixels.
      fonts: fonts that the text is drawn with.
    """
    lines, line = [], ""
    for piece in _pieces(text, width, fonts):
        if line and _length((line + piece).rstrip(), fonts) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()] if line else lines


def _pieces(text: str, width: int, fonts: Fonts) -> Iterator[str]:
    """Yields the unbreakable pieces of a text, too long ones character by character."""
    for piece in LineBreaker(text, "root"):
        fits = _length(piece.rstrip(), fonts) <= width
        yield from [piece] if fits else CharacterBreaker(piece, "root")


def _length(text: str, fonts: Fonts) -> float:
    return sum(font.font.getlength(run) for font, run in _runs(text, fonts))


def _runs(line: str, fonts: Fonts) -> list[tuple[Font, str]]:
    """Splits a line by font; a font that has all of it shapes it as a whole."""
    chosen: list[Font] = []
    for character in line:
        font = chosen[-1] if chosen else fonts.default
        joins = unicodedata.category(character) in _JOINS_PREVIOUS
        if not (joins and font.has(character)):
            font = fonts.having(character) or font
        chosen.append(font)
    for font in dict.fromkeys(chosen):
        if all(font.has(character) for character in line):
            return [(font, line)]
    pairs = itertools.groupby(zip(chosen, line, strict=True), lambda pair: pair[0])
    return [(font, "".join(c for _, c in run)) for font, run in pairs]


def _is_ignored(character: str, can_shape: bool) -> bool:
    """Returns whether a character is invisible and not needed by raqm for shaping."""
    if unicodedata.category(character) == "Cf":
        return not can_shape
    return unicodedata.name(character, "").startswith("VARIATION SELECTOR")


def _missing(character: str, fonts: Fonts) -> str:
    """Returns the script or symbol name of a character without a font, else ""."""
    if unicodedata.category(character) == "Cf" or fonts.having(character):
        return ""
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    if unicodedata.category(character) == "So":
        return name
    script = name.replace("-", " ").split()[0]
    return "CJK" if script in _WITH_CJK else script


def _replacement(run: str, script: str, fonts: Fonts) -> str:
    decomposed = unicodedata.normalize("NFKD", run.translate(_PLAIN))
    plain = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
    if all(fonts.having(character) for character in plain):
        return plain
    if unicodedata.category(run[0]) == "So":
        return f"[{script.lower()}]" * len(run)
    _warn_once(
        f"pictures: no installed font has {script} letters, so their number is drawn "
        "instead; install a font that has them, such as Noto Sans (Debian: "
        "fonts-noto-core, fonts-noto-cjk)"
    )
    return f"[{len(run)} {script}]"


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)
