"""The words that a model knows, and their numbers."""

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow_datasets as tfds

from vse_jax.data import split_index
from vse_jax.data.text.tokenizers import tokenize
from vse_jax.errors import InputError

PAD, START, END, UNKNOWN, MASK = "<pad>", "<start>", "<end>", "<unk>", "<mask>"
_FIRST = (PAD, START, END, UNKNOWN)


class Vocabulary:
    """`<pad>` = 0, `<start>`, `<end>`, `<unk>`, the words, and `<mask>` last.

    Attributes:
        words: every entry, in the order of its number.
        pad, start, end, unknown, mask: numbers of the special entries.
        first_word: number of the first ordinary word; `mask` follows the last one.
    """

    def __init__(self, words: Sequence[str]):
        """Takes the ordinary words, without the special entries.

        Raises:
            InputError: there is no word, a word stands twice or is a special entry.
        """
        self.words = (*_FIRST, *words, MASK)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) != len(self.words):
            counts = collections.Counter(self.words)
            word = next(word for word in self.words if counts[word] > 1)
            raise InputError(
                f"vocabulary: it holds the word {word!r} twice; expected once"
            )
        if not words:
            raise InputError("vocabulary: it holds no word; expected at least one")
        self.pad, self.start, self.end, self.unknown = range(len(_FIRST))
        self.first_word = len(_FIRST)
        self.mask = len(self.words) - 1

    def __len__(self) -> int:
        """Returns the number of entries, the special ones included."""
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        """Returns whether both give every word the same number."""
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        """Returns a hash that fits `__eq__`."""
        return hash(self.words)

    def __repr__(self) -> str:
        """Returns the size, for messages."""
        return f"Vocabulary({len(self)} entries, {self.fingerprint[:8]})"

    @property
    def fingerprint(self) -> str:
        """A hash of the content that is the same in every process."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def numbers(self, words: Iterable[str]) -> np.ndarray:
        """Returns the number of each word, `<unk>`'s for those unknown: int32."""
        # No caption can hold a special entry: the tokenizer sets brackets apart.
        return np.array([self._numbers.get(w, self.unknown) for w in words], np.int32)

    def encode(self, caption: str) -> np.ndarray:
        """Returns the caption's numbers between `<start>` and `<end>`: int32 [time]."""
        words = self.numbers(tokenize(caption))
        return np.concatenate([[self.start], words, [self.end]]).astype(np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the words of token numbers, without padding, start and end."""
        silent = (self.pad, self.start, self.end)
        return " ".join(self.words[token] for token in tokens if token not in silent)

    def to_json(self) -> str:
        """Returns the vocabulary as JSON; `from_json` is the exact inverse."""
        return json.dumps({"words": self.words}, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str, name: str = "vocabulary") -> "Vocabulary":
        """Reads what `to_json` wrote.

        Args:
            text: the JSON.
            name: of the file, for the message.

        Raises:
            InputError: the text is no vocabulary.
        """
        try:
            words = json.loads(text)["words"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{name}: not a vocabulary in JSON; write it anew"
            ) from None
        well_formed = isinstance(words, list) and all(isinstance(w, str) for w in words)
        if not well_formed or tuple(words[:4]) != _FIRST or words[-1] != MASK:
            raise InputError(
                f"{name}: expected a list of words that begins with {' '.join(_FIRST)} "
                f"and ends with {MASK}; write the vocabulary anew"
            )
        return cls(words[4:-1])

    @classmethod
    def from_captions(cls, captions: Iterable[str], minimum_count: int) -> "Vocabulary":
        """Takes the words that stand at least `minimum_count` times in the captions.

        Words keep the order of their first appearance.
        """
        counts = collections.Counter()
        for caption in captions:
            counts.update(tokenize(caption))
        return cls._of_frequent(counts, minimum_count)

    @classmethod
    def _of_frequent(cls, counts: dict[str, int], minimum_count: int) -> "Vocabulary":
        words = [word for word, count in counts.items() if count >= minimum_count]
        if not words:
            raise InputError(
                f"data.minimum_word_count: no word stands {minimum_count} times in the "
                "training captions; take a smaller number"
            )
        return cls(words)


def training_vocabulary(
    builder: tfds.core.DatasetBuilder, minimum_count: int, split: str = "train"
) -> Vocabulary:
    """Returns the vocabulary of the split of a prepared dataset that trains a model.

    The words and their counts are part of the split's index, which is cached beside the
    prepared data, so that only the first call reads the captions.

    Raises:
        InputError: there is no such split, or no word is frequent enough.
    """
    index = split_index.split_index(builder, split)
    counts = np.bincount(index.word_ids, minlength=len(index.words)).tolist()
    return Vocabulary._of_frequent(
        dict(zip(index.words, counts, strict=True)), minimum_count
    )
