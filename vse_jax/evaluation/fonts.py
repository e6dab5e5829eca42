"""Finds fonts on this machine that have the characters of a text."""

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
# Beginnings of the names of fonts with many scripts, the better ones first; then any.
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
_MOST_FONTS = 300  # that are opened to find a character
_NO_CHARACTER = "\U0010ffff"  # Unicode never assigns it, so that it has no glyph


class Font:
    """A font that knows which characters it has.

    Attributes:
      font: to draw with.
    """

    def __init__(self, font: ImageFont.FreeTypeFont):
        """Wraps a font of Pillow's."""
        self.font = font
        # A layout engine that shapes text would draw marks on a dotted circle.
        self._basic = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        self._no_glyph = self._drawn(_NO_CHARACTER)
        self._has: dict[str, bool] = {}

    def has(self, character: str) -> bool:
        """Returns whether the font draws the character as more than its empty box."""
        if character not in self._has:
            is_seen = unicodedata.category(character) != "Cf"
            drawn = self._drawn(character) if is_seen else None
            self._has[character] = drawn != self._no_glyph
        return self._has[character]

    def _drawn(self, character: str) -> tuple[tuple[int, int], bytes]:
        mask = self._basic.getmask(character)
        return mask.size, bytes(mask)


class Fonts:
    """Pillow's own font, which has ASCII only, and those found on this machine.

    Attributes:
      default: Pillow's own.
    """

    def __init__(self, size: int, paths: Iterable[pathlib.Path] | None = None):
        """Opens no file yet.

        Args:
          size: pixels.
          paths: of font files; those of the usual folders if None.
        """
        self._size = size
        self.default = Font(ImageFont.load_default(size))
        self._opened = [self.default]
        paths = _installed() if paths is None else paths
        self._paths = itertools.islice(paths, _MOST_FONTS)
        self._found: dict[str, Font | None] = {}

    def having(self, character: str) -> Font | None:
        """Returns the first font that has a character; None if there is none."""
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
                continue  # damaged, or with pictures of one fixed size
            self._opened.append(font)
            yield font


def _installed() -> Iterator[pathlib.Path]:
    """Yields the paths of font files, those with many scripts first."""
    folders = [pathlib.Path(os.path.expandvars(f)).expanduser() for f in _FOLDERS]
    files = itertools.chain.from_iterable(folder.rglob("*") for folder in folders)
    yield from sorted((f for f in files if f.suffix.lower() in _SUFFIXES), key=_order)


def _order(path: pathlib.Path) -> tuple:
    name = path.name.lower()
    ranks = (rank for rank, begin in enumerate(_PREFERRED) if name.startswith(begin))
    styles = sum(style in name for style in _STYLES)
    return styles, next(ranks, len(_PREFERRED)), name, path
