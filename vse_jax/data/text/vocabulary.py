"""Maps the words that a model knows to token numbers."""

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow_datasets as tfds

from vse_jax.data import split_index
from vse_jax.data.text import tokenizers
from vse_jax.errors import InputError

PAD, START, END, UNKNOWN, MASK = "<pad>", "<start>", "<end>", "<unk>", "<mask>"
_FIRST = (PAD, START, END, UNKNOWN)


class Vocabulary:
    """Words and their token numbers.

    `<pad>` is 0. `<start>`, `<end>`, `<unk>` and the ordinary words follow; `<mask>` is
    last.

    Attributes:
      words: all entries in the order of their numbers.
      pad, start, end, unknown, mask: numbers of the special entries.
      first_word: number of the first ordinary word; `mask` follows the last one.
      word_count: number of ordinary words.
    """

    def __init__(self, words: Sequence[str]):
        """Initializes a vocabulary of ordinary words, without the special entries.

        Raises:
          InputError: if there is no word, or if a word is repeated or is a special
            entry.
        """
        self.words = (*_FIRST, *words, MASK)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) != len(self.words):
            counts = collections.Counter(self.words)
            word = next(word for word in self.words if counts[word] > 1)
            raise InputError(
                f"vocabulary: the word {word!r} occurs twice; expected once"
            )
        if not words:
            raise InputError("vocabulary: it has no words; expected at least one")
        self.pad, self.start, self.end, self.unknown = range(len(_FIRST))
        self.first_word = len(_FIRST)
        self.mask = len(self.words) - 1
        self.word_count = self.mask - self.first_word

    def __len__(self) -> int:
        """Returns the number of entries, including the special ones."""
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        """Returns whether both map every word to the same number."""
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        """Returns a hash that is consistent with `__eq__`."""
        return hash(self.words)

    def __repr__(self) -> str:
        """Returns the size and the start of the fingerprint, for messages."""
        return f"Vocabulary({len(self)} entries, {self.fingerprint[:8]})"

    @property
    def fingerprint(self) -> str:
        """Hash of the content; equal in every process."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def numbers(self, words: Iterable[str]) -> np.ndarray:
        """Returns the number of each word, or that of `<unk>`, int32 `[words]`."""
        # Captions cannot contain special entries: the tokenizer separates brackets.
        return np.array([self._numbers.get(w, self.unknown) for w in words], np.int32)

    def encode(self, caption: str, tokenizer: str = tokenizers.DEFAULT) -> np.ndarray:
        """Returns the caption's tokens from `<start>` to `<end>`, int32 `[time]`."""
        words = self.numbers(tokenizers.tokenize(caption, tokenizer))
        return np.concatenate([[self.start], words, [self.end]]).astype(np.int32)

    def encode_texts(
        self, texts: Sequence[str], tokenizer: str = tokenizers.DEFAULT
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts.

        Args:
          texts: at least one text.
          tokenizer: a name in `tokenizers.TOKENIZERS`.

        Returns:
          The tokens of all texts, int32 `[tokens]`, and the number of tokens of each,
          int64 `[texts]`.
        """
        encoded = [self.encode(text, tokenizer) for text in texts]
        return np.concatenate(encoded), np.array([len(tokens) for tokens in encoded])

    def encode_split(
        self, index: split_index.SplitIndex
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes all captions of a split; see `encode_texts`."""
        words = self.numbers(index.words)[index.word_ids]
        word_count = np.diff(index.word_offset)
        caption = np.repeat(np.arange(len(word_count)), word_count)
        flat = np.full(len(words) + 2 * len(word_count), self.start, np.int32)
        # Each word follows a start and an end per earlier caption, and its own start.
        flat[np.arange(len(words)) + 2 * caption + 1] = words
        flat[np.cumsum(word_count + 2) - 1] = self.end
        return flat, word_count + 2

    def lacks(self, words: Sequence[str]) -> np.ndarray:
        """Returns whether each word becomes `<unk>`, bool `[words]`."""
        return self.numbers(words) == self.unknown

    def random_words(self, uniform: np.ndarray) -> np.ndarray:
        """Maps numbers in [0, 1) to ordinary words, int32 of the same shape."""
        return self.first_word + (uniform * self.word_count).astype(np.int32)

    def keeps(self, tokens: np.ndarray) -> np.ndarray:
        """Returns where augmentation keeps a token, which is nowhere."""
        return np.zeros(tokens.shape, bool)

    def begins_word(self, tokens: np.ndarray) -> np.ndarray:
        """Returns where a word begins, which is everywhere, bool `[batch, time]`."""
        return np.ones(tokens.shape, bool)

    def describe(self, tokenizer: str = tokenizers.DEFAULT) -> dict[str, str]:
        """Returns how captions are split into words, see `tokenizers.describe`."""
        return tokenizers.describe(tokenizer)

    def to_json(self) -> str:
        """Returns the vocabulary as JSON, the inverse of `from_json`."""
        return json.dumps({"words": self.words}, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str, name: str = "vocabulary") -> "Vocabulary":
        """Returns the vocabulary that `to_json` wrote.

        Args:
          text: the JSON.
          name: name of the file, for the message.

        Raises:
          InputError: if the text is not a vocabulary.
        """
        try:
            words = json.loads(text)["words"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{name}: not a vocabulary in JSON; write it again"
            ) from None
        well_formed = isinstance(words, list) and all(isinstance(w, str) for w in words)
        if not well_formed or tuple(words[:4]) != _FIRST or words[-1] != MASK:
            raise InputError(
                f"{name}: expected a list of words that begins with {' '.join(_FIRST)} "
                f"and ends with {MASK}; write the vocabulary again"
            )
        return cls(words[4:-1])


def training_vocabulary(
    builder: tfds.core.DatasetBuilder,
    minimum_count: int,
    split: str = "train",
    tokenizer: str = tokenizers.DEFAULT,
) -> Vocabulary:
    """Returns the vocabulary of the training split of a prepared dataset.

    Its words are in the order of their first occurrence. They and their counts are part
    of the split's index, which is cached beside the prepared data. Only the first call
    reads the captions.

    Args:
      builder: a prepared dataset.
      minimum_count: minimum number of occurrences of a word in the split.
      split: name of the split.
      tokenizer: tokenizer that splits the captions into words.

    Raises:
      InputError: if the split does not exist, or no word is frequent enough.
    """
    index = split_index.split_index(builder, split, tokenizer)
    counts = np.bincount(index.word_ids, minlength=len(index.words)).tolist()
    words = [
        word
        for word, count in zip(index.words, counts, strict=True)
        if count >= minimum_count
    ]
    if not words:
        raise InputError(
            f"config.data.minimum_word_count is {minimum_count}, but no word "
            "occurs that often in the training captions; set it to a smaller number"
        )
    return Vocabulary(words)
