"""The tokens of a pretrained tokenizer: pieces of words.

A tokenizer is the content of a `tokenizer.json` of Hugging Face, of any kind: WordPiece
(BERT), BPE (CLIP) or Unigram (SigLIP).
"""

import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from vse_jax.data.split_index import SplitIndex
from vse_jax.errors import InputError, one_line

_AT_ONCE = 20_000  # captions whose pieces are in memory as objects
_MASKS = ("[MASK]", "<mask>")
_RESERVED = re.compile(r"\[unused\d+\]")  # tokens of BERT that no text has
_WORD_MARKS = ("\u2581", "\u0120")  # of Metaspace and ByteLevel, for a space


class Subwords:
    """Pieces of words and their token numbers; has the interface of `Vocabulary`.

    Attributes:
      words: all tokens in the order of their numbers; "" for numbers without a token.
      pad: fills the space behind a caption, which no encoder reads.
      start, end: numbers of the first and last token of each caption, or None.
      unknown: number of the token for text that has no pieces, or None.
      mask: number of the token that hides another one, or None.
      word_count: number of tokens that are pieces of words.
    """

    pad = 0

    def __init__(self, content: Mapping[str, Any], name: str = "tokenizer"):
        """Initializes the tokenizer.

        Args:
          content: content of a `tokenizer.json`. Its truncation and padding are
            ignored.
          name: name of the file, for messages.

        Raises:
          InputError: if the content is not that of a tokenizer.
        """
        self._content = {**content, "truncation": None, "padding": None}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._content))
        except Exception as error:  # the package raises nothing more specific
            raise InputError(
                f"{name}: not a tokenizer that the package tokenizers reads "
                f"({one_line(error)}); download it again"
            ) from None
        numbers = self._tokenizer.get_vocab()
        words = [""] * (1 + max(numbers.values(), default=0))
        for word, number in numbers.items():
            words[number] = word
        self.words = tuple(words)
        self.start, self.end = self._ends()
        self.unknown = self._unknown_of_model()
        self.mask = next((numbers[word] for word in _MASKS if word in numbers), None)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = np.zeros(len(words), bool)
        self._special[[n for n, token in added.items() if token.special]] = True
        self._pieces = np.array(
            [
                number
                for number, word in enumerate(words)
                if word and not self._special[number] and not _RESERVED.fullmatch(word)
            ],
            np.int32,
        )
        self.word_count = len(self._pieces)

    def _ends(self):
        """Returns the tokens that the tokenizer puts before and behind a text."""
        with_ends = self._tokenizer.encode("a").ids
        text = self._tokenizer.encode("a", add_special_tokens=False).ids
        before = with_ends.index(text[0]) if text else 0
        behind = with_ends[before + len(text) :]
        start = with_ends[before - 1] if before else None
        return start, behind[-1] if behind else None

    def _unknown_of_model(self):
        model = self._content.get("model", {})
        if model.get("unk_id") is not None:
            return model["unk_id"]
        token = model.get("unk_token")
        return None if token is None else self._tokenizer.token_to_id(token)

    def __len__(self) -> int:
        """Returns one more than the largest token number."""
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        """Returns whether both split every text into the same tokens."""
        return isinstance(other, Subwords) and self._content == other._content

    def __hash__(self) -> int:
        """Returns a hash that is consistent with `__eq__`."""
        return hash(self.words)

    def __repr__(self) -> str:
        """Returns the kind, the size and the start of the fingerprint."""
        return f"Subwords({self.kind}, {len(self)} tokens, {self.fingerprint[:8]})"

    @property
    def kind(self) -> str:
        """Algorithm of the tokenizer, such as `WordPiece`."""
        return type(self._tokenizer.model).__name__

    @property
    def fingerprint(self) -> str:
        """Hash of the content; equal in every process."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def describe(self, tokenizer: str = "") -> dict[str, str]:
        """Returns the kind of tokenizer and the library that decides its result."""
        del tokenizer  # that of words
        version = importlib.metadata.version("tokenizers")
        return {"name": self.kind, "library": f"tokenizers {version}"}

    def encode(self, caption: str, tokenizer: str = "") -> np.ndarray:
        """Returns the caption's tokens from `start` to `end`, int32 `[time]`.

        An empty caption has one token, also if there are no `start` and `end`.
        """
        del tokenizer
        return np.array(self._at_least_one(self._tokenizer.encode(caption)), np.int32)

    def encode_texts(
        self, texts: Sequence[str], tokenizer: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts, on all CPU cores.

        Args:
          texts: any number of texts.
          tokenizer: ignored; how words are split.

        Returns:
          The tokens of all texts, int32 `[tokens]`, and the number of tokens of each,
          int64 `[texts]`.
        """
        del tokenizer
        flat, counts = [np.zeros(0, np.int32)], []
        for first in range(0, len(texts), _AT_ONCE):
            some = self._tokenizer.encode_batch_fast(texts[first : first + _AT_ONCE])
            tokens = [self._at_least_one(encoded) for encoded in some]
            counts += map(len, tokens)
            flat.append(np.concatenate(tokens).astype(np.int32))
        return np.concatenate(flat), np.array(counts, np.int64)

    def _at_least_one(self, encoded):
        nothing = self.pad if self.unknown is None else self.unknown
        return encoded.ids or [nothing]

    def encode_split(self, index: SplitIndex) -> tuple[np.ndarray, np.ndarray]:
        """Encodes all captions of a split; see `encode_texts`."""
        return self.encode_texts(index.captions)

    def lacks(self, words: Sequence[str]) -> np.ndarray:
        """Returns whether a part of each word has no token, bool `[words]`."""
        if self.unknown is None or not len(words):
            return np.zeros(len(words), bool)
        encoded = self._tokenizer.encode_batch_fast(
            list(words), add_special_tokens=False
        )
        return np.array([self.unknown in one.ids for one in encoded])

    def random_words(self, uniform: np.ndarray) -> np.ndarray:
        """Maps numbers in [0, 1) to pieces of words, int32 of the same shape."""
        return self._pieces[(uniform * len(self._pieces)).astype(np.int32)]

    def keeps(self, tokens: np.ndarray) -> np.ndarray:
        """Returns where a token is `start` or `end`, which augmentation keeps."""
        return np.isin(tokens, [n for n in (self.start, self.end) if n is not None])

    def begins_word(self, tokens: np.ndarray) -> np.ndarray:
        """Returns where a word begins, bool `[batch, time]`.

        With WordPiece and CLIP's BPE, a punctuation mark is a word. With other
        tokenizers it belongs to the word before it.
        """
        begins, ends = self._boundaries
        before = np.roll(tokens, 1, axis=1)
        found = (begins[tokens] & ends[before]) | self._special[before]
        found[:, 0] = True
        return found

    @functools.cached_property
    def _boundaries(self):
        """Whether each token may begin a word, and may end one; bool `[tokens]`."""
        model = self._content["model"]
        words, anywhere = self.words, np.ones(len(self.words), bool)
        if suffix := model.get("end_of_word_suffix"):
            ends = np.array([word.endswith(suffix) for word in words])
            return anywhere, ends | self._special
        if self.kind == "WordPiece":  # old files have no `type`
            prefix = model["continuing_subword_prefix"]
            return np.array([not word.startswith(prefix) for word in words]), anywhere
        begins = np.array([word.startswith(_WORD_MARKS) for word in words])
        return begins | self._special, anywhere

    def to_json(self) -> str:
        """Returns the tokenizer as JSON, the inverse of `from_json`."""
        return json.dumps({"tokenizer": self._content}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, name: str = "tokenizer") -> "Subwords":
        """Returns the tokens that `to_json` wrote.

        Raises:
          InputError: if the text is not that of a tokenizer.
        """
        try:
            return cls(dict(json.loads(text)["tokenizer"]), name)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{name}: not a tokenizer; write it again") from None
