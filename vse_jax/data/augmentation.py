"""Size augmentation (VSE-infinity): drops regions and words during training.

Random choices are a function of (seed, pass, image, view), so they are the same on any
number of hosts and after any restart.
"""

import numpy as np

from vse_jax.data.sampling import REGION_STREAM, WORD_STREAM, random_uniform
from vse_jax.data.text.vocabularies import AnyVocabulary

# Cumulative shares of the chosen tokens; the rest are dropped.
_MASKED, _REPLACED = 0.5, 0.6


def keep_regions(
    seed: int,
    pass_number: np.ndarray,
    image: np.ndarray,
    region_count: np.ndarray,
    regions: int,
    rate: float,
    view: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Drops regions at random, but never all regions of an image.

    Args:
      seed: seed of the choice.
      pass_number: int `[batch]`.
      image: int `[batch]`, record numbers.
      region_count: int `[batch]`, regions of each image, at least 1.
      regions: length of the padded axis.
      rate: probability that a region is dropped.
      view: number of the view of the images, from 0; views have their own choices.

    Returns:
      source, int32 `[batch, regions]`, the old index of each region: first the kept
      ones, in order; and region_count, int32 `[batch]`, the number of kept regions.
    """
    keys = (seed, REGION_STREAM, pass_number, image)
    chance = random_uniform(*keys, count=(view + 1) * regions)[:, view * regions :]
    exists = np.arange(regions) < region_count[:, None]
    kept = exists & (chance >= rate)
    return _move_to_front(_at_least_one(kept, np.where(exists, chance, -1.0)))


def corrupt_words(
    seed: int,
    pass_number: np.ndarray,
    image: np.ndarray,
    tokens: np.ndarray,
    token_count: np.ndarray,
    vocabulary: AnyVocabulary,
    rate: float,
    view: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks, replaces or drops some words, but never drops all tokens of a caption.

    Half of the chosen words become `<mask>`, a tenth become a random word, and the
    rest are dropped. If words have several tokens, all of them are masked or dropped,
    or each is replaced by a random one. Without a token `<mask>`, these words are
    dropped too. `<start>` and `<end>` may be chosen like words, but not those of a
    pretrained tokenizer.

    Args:
      seed: seed of the choice.
      pass_number: int `[batch]`.
      image: int `[batch]`, record numbers.
      tokens: int32 `[batch, time]`, padded with `<pad>`.
      token_count: int `[batch]`, at least 1.
      vocabulary: vocabulary of the tokens, from which random words are drawn.
      rate: probability that a word is chosen.
      view: number of the view of the captions, from 0; views have their own choices.

    Returns:
      tokens, int32 `[batch, time]`, padded with `<pad>`; and token_count, int32
      `[batch]`.
    """
    time = tokens.shape[1]
    keys = (seed, WORD_STREAM, pass_number, image)
    word_number = np.cumsum(vocabulary.begins_word(tokens), axis=1) - 1
    chance = random_uniform(*keys, 2 * view, count=time)
    chance = np.take_along_axis(chance, word_number, axis=1)
    is_chosen = (chance < rate) & ~vocabulary.keeps(tokens)
    # Uniform in [0, 1) for the chosen words, -1 for the others.
    fate = np.where(is_chosen, chance / max(rate, 1e-9), -1.0)
    mask = vocabulary.mask
    if mask is None:
        mask, fate = (
            vocabulary.pad,
            np.where(fate >= 0, np.maximum(fate, _REPLACED), fate),
        )
    word = vocabulary.random_words(random_uniform(*keys, 2 * view + 1, count=time))
    changed = np.where((fate >= 0) & (fate < _MASKED), mask, tokens)
    changed = np.where((fate >= _MASKED) & (fate < _REPLACED), word, changed)
    exists = np.arange(time) < token_count[:, None]
    kept = _at_least_one(exists & (fate < _REPLACED), np.where(exists, fate, -1.0))
    source, count = _move_to_front(kept)
    moved = np.take_along_axis(changed, source, axis=1)
    padding = np.arange(time) >= count[:, None]
    return np.where(padding, vocabulary.pad, moved).astype(np.int32), count


def _at_least_one(kept: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Keeps the preferred entry of each row that keeps none, `[batch, n]`."""
    lost = np.flatnonzero(~kept.any(axis=1))
    kept[lost, preference[lost].argmax(axis=1)] = True
    return kept


def _move_to_front(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the old index of each entry, kept ones first, and the number kept."""
    source = np.argsort(~kept, axis=1, kind="stable")
    return source.astype(np.int32), kept.sum(axis=1).astype(np.int32)
