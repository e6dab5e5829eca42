"""Logs the share of words that are not in the vocabulary; warns if it is high."""

import logging
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from vse_jax.data.split_index import SplitIndex, split_index
from vse_jax.data.text import tokenizers
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.excerpts import excerpt

logger = logging.getLogger(__name__)

WARN_ABOVE = 0.1  # share of the words of a split
_EXAMPLES = 5
# Drawn scenes have 20 words. So few words for so many captions indicate a mistake.
_FEW_WORDS, _MANY_CAPTIONS = 10, 100


def log_unknown_words(
    builder: tfds.core.DatasetBuilder,
    vocabulary: AnyVocabulary,
    splits: Sequence[str],
    tokenizer: str = tokenizers.DEFAULT,
) -> None:
    """Logs the share of `<unk>` per split in one line; warns if it is high.

    It also warns if most captions have at most one word, as in a language without
    spaces that no dictionary covers.

    Args:
      builder: a prepared dataset.
      vocabulary: vocabulary of the model.
      splits: names of the splits.
      tokenizer: tokenizer that splits the captions into words.

    Raises:
      InputError: if a split does not exist or cannot be read.
    """
    indexes = {split: split_index(builder, split, tokenizer) for split in splits}
    unknown = {split: count_unknown(indexes[split], vocabulary) for split in splits}
    shares = {split: _share(indexes[split], unknown[split]) for split in splits}
    words = vocabulary.word_count
    logger.info(
        "unknown words (<unk>): %s; the vocabulary has %s words",
        ", ".join(f"{share:.1%} of {split}" for split, share in shares.items()),
        f"{words:,}",
    )
    for split, index in indexes.items():
        if shares[split] > WARN_ABOVE:
            _warn_of_unknown(split, index, unknown[split], shares[split])
        _warn_of_short_captions(split, index)
    captions = len(indexes[splits[0]].captions)
    if words < _FEW_WORDS and captions >= _MANY_CAPTIONS:
        logger.warning(
            "the vocabulary has only %d words, and %s has %s captions; check the "
            "captions and config.data.minimum_word_count",
            words,
            splits[0],
            f"{captions:,}",
        )


def count_unknown(index: SplitIndex, vocabulary: AnyVocabulary) -> np.ndarray:
    """Returns how often each unknown word occurs, and 0 for known words.

    Args:
      index: index of a split.
      vocabulary: vocabulary of a model.

    Returns:
      int64 `[words]`, in the order of `SplitIndex.words`.
    """
    counts = np.bincount(index.word_ids, minlength=len(index.words))
    return np.where(vocabulary.lacks(index.words), counts, 0)


def _share(index: SplitIndex, unknown: np.ndarray) -> float:
    return float(unknown.sum() / max(1, len(index.word_ids)))


def _warn_of_unknown(split, index, unknown, share):
    often = np.argsort(-unknown, kind="stable")[:_EXAMPLES]
    examples = [index.words[word] for word in often if unknown[word]]
    logger.warning(
        "%s: %.0f%% of the words are not in the vocabulary and become <unk>, such as "
        "%s; check the language of these captions and config.data.minimum_word_count",
        split,
        100 * share,
        ", ".join(map(excerpt, examples)),
    )


def _warn_of_short_captions(split: str, index: SplitIndex) -> None:
    word_count = np.diff(index.word_offset)
    if len(word_count) and np.median(word_count) <= 1:
        example = index.captions[int(np.argmax(word_count <= 1))]
        logger.warning(
            "%s: most captions have one word or none, such as %s; expected sentences, "
            "with spaces between words unless the script has none",
            split,
            excerpt(example),
        )
