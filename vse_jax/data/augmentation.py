"""Size augmentation of the papers: regions and words are dropped while training.

Randomness is a function of (seed, pass, image), so that it is the same on any number of
hosts and after any restart.
"""

import numpy as np

from vse_jax.data.sampling import REGION_STREAM, WORD_STREAM, random_uniform
from vse_jax.data.text.vocabulary import Vocabulary

_MASKED, _REPLACED = 0.5, 0.6  # of the chosen words, cumulated; the rest are dropped


def keep_regions(
    seed: int,
    pass_number: np.ndarray,
    image: np.ndarray,
    region_count: np.ndarray,
    regions: int,
    rate: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Drops each region with a probability, but never all of an image.

    Args:
      seed: of the choice.
      pass_number: int [batch].
      image: int [batch], record numbers.
      region_count: int [batch], regions that exist, at least 1.
      regions: length of the padded axis.
      rate: probability of each region to be dropped.

    Returns:
      source int32 [batch, regions], the old place of each region, those kept first
      and in order; region_count int32 [batch], how many are kept.
    """
    chance = random_uniform(seed, REGION_STREAM, pass_number, image, count=regions)
    exists = np.arange(regions) < region_count[:, None]
    kept = exists & (chance >= rate)
    return _move_to_front(_at_least_one(kept, np.where(exists, chance, -1.0)))


def corrupt_words(
    seed: int,
    pass_number: np.ndarray,
    image: np.ndarray,
    tokens: np.ndarray,
    token_count: np.ndarray,
    vocabulary: Vocabulary,
    rate: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks, replaces or drops some tokens, but never drops all of a caption.

    Of the chosen tokens, start and end included, half become `<mask>`, a tenth a random
    word, and the rest are dropped.

    Args:
      seed: of the choice.
      pass_number: int [batch].
      image: int [batch], record numbers.
      tokens: int32 [batch, time], padded with `<pad>`.
      token_count: int [batch], at least 1.
      vocabulary: gives the random words.
      rate: probability of each token to be chosen.

    Returns:
      tokens int32 [batch, time], padded with `<pad>`; token_count int32 [batch].
    """
    time = tokens.shape[1]
    keys = (seed, WORD_STREAM, pass_number, image)
    chance = random_uniform(*keys, 0, count=time)
    # Uniform among the chosen tokens, -1 for the others.
    fate = np.where(chance < rate, chance / max(rate, 1e-9), -1.0)
    words = vocabulary.mask - vocabulary.first_word
    place = (random_uniform(*keys, 1, count=time) * words).astype(np.int32)
    word = vocabulary.first_word + place
    changed = np.where((fate >= 0) & (fate < _MASKED), vocabulary.mask, tokens)
    changed = np.where((fate >= _MASKED) & (fate < _REPLACED), word, changed)
    exists = np.arange(time) < token_count[:, None]
    kept = _at_least_one(exists & (fate < _REPLACED), np.where(exists, fate, -1.0))
    source, count = _move_to_front(kept)
    moved = np.take_along_axis(changed, source, axis=1)
    padding = np.arange(time) >= count[:, None]
    return np.where(padding, vocabulary.pad, moved).astype(np.int32), count


def _at_least_one(kept: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Keeps the entry with the highest preference where none is kept: [batch, n]."""
    lost = np.flatnonzero(~kept.any(axis=1))
    kept[lost, preference[lost].argmax(axis=1)] = True
    return kept


def _move_to_front(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the old place of each entry, kept ones first, and how many are kept."""
    source = np.argsort(~kept, axis=1, kind="stable")
    return source.astype(np.int32), kept.sum(axis=1).astype(np.int32)
