"""Recalls of captions by their length and by their rarest word."""

import numpy as np

from vse_jax.data import records
from vse_jax.data.split_index import SplitIndex, split_index
from vse_jax.experiment import Experiment
from vse_jax.run_report.statistics import (
    RecallGroup,
    quantile_groups,
    recalls_by_group,
    span,
)

_LENGTH_GROUPS, _RARITY_GROUPS = 5, 4  # at most
_UNKNOWN, _NO_WORD = -1, np.iinfo(np.int64).max


def by_length(index: SplitIndex, ranks: np.ndarray) -> list[RecallGroup]:
    """Groups captions by their number of words.

    Args:
      index: index of the split.
      ranks: `[captions]` int, rank of each caption's image, counted from 0.
    """
    group, ranges = quantile_groups(np.diff(index.word_offset), _LENGTH_GROUPS)
    labels = [span(low, high) for low, high in ranges]
    return recalls_by_group(ranks, group, labels)


def by_rarity(
    experiment: Experiment, index: SplitIndex, ranks: np.ndarray
) -> list[RecallGroup]:
    """Groups captions by how often their rarest word is in the training captions.

    Captions with a word that the model does not know are a group of their own.

    Args:
      experiment: the run's dataset and vocabulary.
      index: index of the split.
      ranks: `[captions]` int, rank of each caption's image, counted from 0.

    Returns:
      Groups, the rarest words first; none if the dataset has no training split.
    """
    data = experiment.config.data
    if not records.has_split(experiment.builder, data.train_split):
        return []
    training = split_index(experiment.builder, data.train_split, data.tokenizer)
    is_unknown = experiment.vocabulary.lacks(index.words)
    occurrences = np.where(is_unknown, _UNKNOWN, _occurrences(training, index.words))
    return _group_by_rarest(_rarest(index, occurrences), ranks)


def _group_by_rarest(rarest: np.ndarray, ranks: np.ndarray) -> list[RecallGroup]:
    """Returns the recalls of captions by how frequent their rarest word is.

    Args:
      rarest: `[captions]` int, how often the rarest word of each caption is in the
        training captions; -1 if the model does not know a word.
      ranks: `[captions]` int, rank of each caption's image, counted from 0.
    """
    known = (rarest != _UNKNOWN) & (rarest != _NO_WORD)
    group = np.where(rarest == _UNKNOWN, 0, -1)
    labels = ["unknown"]
    if known.any():
        of_known, ranges = quantile_groups(rarest[known], _RARITY_GROUPS)
        group[known] = 1 + of_known
        labels += [span(low, high) for low, high in ranges]
    return recalls_by_group(ranks, group, labels)


def _occurrences(training: SplitIndex, words: list[str]) -> np.ndarray:
    """Returns how often each word occurs in the training captions."""
    counts = np.bincount(training.word_ids, minlength=len(training.words)).tolist()
    count_of = dict(zip(training.words, counts, strict=True))
    return np.array([count_of.get(word, 0) for word in words], np.int64)


def _rarest(index: SplitIndex, occurrences: np.ndarray) -> np.ndarray:
    """Returns the least number among the words of each caption."""
    lengths = np.diff(index.word_offset)
    rarest = np.full(len(lengths), _NO_WORD, np.int64)
    caption_of_word = np.repeat(np.arange(len(lengths)), lengths)
    np.minimum.at(rarest, caption_of_word, occurrences[index.word_ids])
    return rarest
