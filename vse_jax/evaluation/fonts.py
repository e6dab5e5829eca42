"""Finds installed fonts that have the characters of a text."""

import itertools
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator

from PIL import ImageFont

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    r"%WINDIR%\Fonts",
)
_SUFFIXES = (".ttf", ".otf", ".ttc")
# Prefixes of the names of fonts with many scripts, in order of preference.
_PREFERRED = (
    "dejavusans.",
    "notosans-",
    "notosanscjk",
    "notosans",
    "arial unicode",
    "pingfang",
    "hiragino",
    "msyh",
    "yugoth",
    "leelawui",
    "droidsansfallback",
    "wqy",
    "unifont",
)
_STYLES = ("bold", "black", "light", "thin", "italic", "oblique", "condensed")
_MOST_FONTS = 300  # maximum number of fonts to open
_NO_CHARACTER = "\U0010ffff"  # never assigned by Unicode, so it has no glyph


class Font:
    """A font and the characters that it has.

    Attributes:
      font: Pillow's font.
    """

    def __init__(self, font: ImageFont.FreeTypeFont):
        """Wraps a Pillow font."""
        self.font = font
        # A layout engine that shapes text draws a combining mark on a dotted circle.
        self._basic = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        self._no_glyph = self._drawn(_NO_CHARACTER)
        self._has: dict[str, bool] = {}

    def has(self, character: str) -> bool:
        """Returns whether the font has a glyph for the character."""
        if character not in self._has:
            is_seen = unicodedata.category(character) != "Cf"
            drawn = self._drawn(character) if is_seen else None
            self._has[character] = drawn != self._no_glyph
        return self._has[character]

    def _drawn(self, character: str) -> tuple[tuple[int, int], bytes]:
        mask = self._basic.getmask(character)
        return mask.size, bytes(mask)


class Fonts:
    """Pillow's default font, which has ASCII only, and the installed fonts.

    Attributes:
      default: Pillow's default font.
    """

    def __init__(self, size: int, paths: Iterable[pathlib.Path] | None = None):
        """Loads the default font; other fonts are opened when they are needed.

        Args:
          size: font size, pixels.
          paths: font files; None for those in the usual folders.
        """
        self._size = size
        self.default = Font(ImageFont.load_default(size))
        self._opened = [self.default]
        paths = _installed() if paths is None else paths
        self._paths = itertools.islice(paths, _MOST_FONTS)
        self._found: dict[str, Font | None] = {}

    def having(self, character: str) -> Font | None:
        """Returns the first font that has a character; None if no font has it."""
        if character not in self._found:
            fonts = itertools.chain(self._opened.copy(), self._open())
            found = next((font for font in fonts if font.has(character)), None)
            self._found[character] = found
        return self._found[character]

    def _open(self) -> Iterator[Font]:
        for path in self._paths:
            try:
                font = Font(ImageFont.truetype(path, self._size))
            except (OSError, ValueError):
                continue  # damaged, or a bitmap font of another size
            self._opened.append(font)
            yield font


def _installed() -> Iterator[pathlib.Path]:
    """Yields the paths of font files; fonts with many scripts come first."""
    folders = [pathlib.Path(os.path.expandvars(f)).expanduser() for f in _FOLDERS]
    files = itertools.chain.from_iterable(folder.rglob("*") for folder in folders)
    yield from sorted((f for f in files if f.suffix.lower() in _SUFFIXES), key=_order)


def _order(path: pathlib.Path) -> tuple:
    name = path.name.lower()
    ranks = (rank for rank, begin in enumerate(_PREFERRED) if name.startswith(begin))
    styles = sum(style in name for style in _STYLES)
    return styles, next(ranks, len(_PREFERRED)), name, path
