"""Keeps all captions of a split in memory as token numbers."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import numpy as np

from vse_jax.data.split_index import SplitIndex
from vse_jax.data.text.vocabularies import AnyVocabulary

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EncodedCaptions:
    """Concatenated token numbers of captions.

    Attributes:
      flat: int32 `[tokens of all captions]`, including the start and the end.
      offset: int64 `[captions]`, index in `flat` of the first token of each caption.
      token_count: int32 `[captions]`, at most the longest batch length.
      vocabulary: vocabulary of the token numbers.
    """

    flat: np.ndarray
    offset: np.ndarray
    token_count: np.ndarray
    vocabulary: AnyVocabulary

    def batch(self, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns a padded batch of captions.

        Args:
          captions: int `[batch]`, caption numbers in the split.

        Returns:
          tokens, int32 `[batch, time]`, padded to the longest caption of the batch; and
          token_count, int32 `[batch]`. A truncated caption has its end too.
        """
        count = self.token_count[captions]
        column = np.arange(count.max())
        # Values read beyond the end of a caption are replaced by padding.
        place = np.minimum(self.offset[captions, None] + column, len(self.flat) - 1)
        tokens = np.where(
            column < count[:, None], self.flat[place], self.vocabulary.pad
        ).astype(np.int32)
        if self.vocabulary.end is not None:
            tokens[np.arange(len(count)), count - 1] = self.vocabulary.end
        return tokens, count


def encode_captions(
    index: SplitIndex, vocabulary: AnyVocabulary, longest: int, name: str
) -> EncodedCaptions:
    """Encodes all captions of a split.

    Args:
      index: index of the split.
      vocabulary: vocabulary of the model.
      longest: maximum number of tokens, including the start and the end. Longer
        captions are truncated.
      name: name of the split, to log how many captions were truncated.
    """
    flat, count = vocabulary.encode_split(index)
    _log_cut(count, longest, name)
    return _encoded(flat, count, vocabulary, longest)


def encode_texts(
    texts: Sequence[str],
    vocabulary: AnyVocabulary,
    tokenizer: str,
    longest: int,
    name: str = "",
) -> EncodedCaptions:
    """Encodes captions that belong to no dataset.

    Args:
      texts: captions, at least one.
      vocabulary: vocabulary of the model.
      tokenizer: a name in `tokenizers.TOKENIZERS`, for a vocabulary of words.
      longest: maximum number of tokens, see `encode_captions`.
      name: what the captions are, to log how many were truncated; "" logs nothing.
    """
    flat, count = vocabulary.encode_texts(texts, tokenizer)
    if name:
        _log_cut(count, longest, name)
    return _encoded(flat, count, vocabulary, longest)


def _encoded(flat, count, vocabulary, longest):
    return EncodedCaptions(
        flat=flat,
        offset=np.cumsum(count) - count,
        token_count=np.minimum(count, longest).astype(np.int32),
        vocabulary=vocabulary,
    )


def batches_by_length(
    captions: EncodedCaptions, size: int, lengths: tuple[int, ...]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of captions, the shortest captions first.

    Args:
      captions: the captions.
      size: rows of a batch; the last batch repeats its last caption.
      lengths: lengths in tokens that batches are padded to, ascending.

    Yields:
      tokens, int32 `[size, time]`; token_count, int32 `[size]`; and caption_index,
      int32 `[size]`: the number of the caption, or -1 for a repeated one.
    """
    order = np.argsort(captions.token_count, kind="stable")
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        padding = np.full(size - len(chosen), -1)
        tokens, count = captions.batch(np.pad(chosen, (0, len(padding)), mode="edge"))
        yield {
            "tokens": pad_to_length(tokens, lengths, count.max()),
            "token_count": count,
            "caption_index": np.concatenate([chosen, padding]).astype(np.int32),
        }


def _log_cut(token_count: np.ndarray, longest: int, name: str) -> None:
    cut = int((token_count > longest).sum())
    if cut:
        logger.warning(
            "%s: %d of %d captions are truncated to %d tokens "
            "(config.data.token_lengths, at most the positions of a text transformer)",
            name,
            cut,
            len(token_count),
            longest,
        )


def pad_to_length(
    tokens: np.ndarray, lengths: tuple[int, ...], time: int
) -> np.ndarray:
    """Pads or trims tokens to the smallest length that holds `time` tokens.

    Args:
      tokens: int32 `[..., any]`.
      lengths: allowed lengths, ascending; the last one is at least `time`.
      time: number of tokens of the longest caption.

    Returns:
      int32 `[..., length]`.
    """
    length = next(length for length in lengths if length >= time)
    padded = np.zeros((*tokens.shape[:-1], length), np.int32)  # `<pad>` is 0
    width = min(length, tokens.shape[-1])
    padded[..., :width] = tokens[..., :width]
    return padded
