"""Splits a caption into words as the papers' code does: NLTK's rules on lower case."""

import re

from nltk.tokenize import word_tokenize

# Most captions are plain words with commas between and a full stop at the end. NLTK's
# three dozen substitutions then only set the punctuation apart, and take 50 times as
# long as doing just that.
_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_PLAIN = re.compile(rf"(?:{_WORD}(?: ?,)? )*{_WORD} ?\.?")
_CONTRACTION = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")


def tokenize(caption: str) -> list[str]:
    """Returns the caption's words and punctuation marks, in lower case.

    Equal to NLTK's `word_tokenize(caption.strip().lower(), preserve_line=True)`.
    """
    text = caption.strip().lower()
    if _PLAIN.fullmatch(text) and not _CONTRACTION.search(text):
        return text.replace(",", " , ").replace(".", " .").split()
    return word_tokenize(text, preserve_line=True)
