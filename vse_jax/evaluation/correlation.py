"""Spearman's correlation of similarities with human judgements, as CxC samples it.

Judgements of the same item depend on each other. CxC (Parekh et al., "Crisscrossed
Captions", 2021) therefore draws samples: half of the queries, and for each of them one
of the items that it was judged with. The result is the mean correlation over 1,000
samples.
"""

from typing import NamedTuple

import numpy as np

from vse_jax.data import sampling
from vse_jax.evaluation.relevance import Relevance

SAMPLES = 1000
_SEED = 0  # fixed, so that equal similarities have equal correlations


class Correlation(NamedTuple):
    """Spearman's correlation over the samples, from -1 to 1.

    Attributes:
      mean: mean of the samples.
      deviation: their standard deviation.
    """

    mean: float
    deviation: float


def sampled_spearman(
    similarity: np.ndarray, judgement: np.ndarray, judged: Relevance
) -> Correlation:
    """Computes the mean correlation over `SAMPLES` samples of the pairs.

    The correlation of equal similarities is 0, and so is that of a sample with a
    similarity of NaN: neither agrees with any order of the judgements.

    Args:
      similarity: float `[pairs]`, of a model; may have NaN.
      judgement: float `[pairs]`, of humans.
      judged: relates each query to the numbers of the pairs that it is part of.
    """
    levels = _levels(similarity), _levels(judgement)
    is_nan = np.isnan(similarity)
    drawn = [
        np.nan if is_nan[pairs].any() else spearman(*(level[pairs] for level in levels))
        for pairs in (draw(judged, sample) for sample in range(SAMPLES))
    ]
    drawn = np.nan_to_num(drawn, nan=0.0)
    return Correlation(float(np.mean(drawn)), float(np.std(drawn)))


def draw(judged: Relevance, sample: int) -> np.ndarray:
    """Draws half of the queries without replacement, and one pair of each of them.

    Args:
      judged: relates queries to numbers of pairs.
      sample: number of the sample, which decides what is drawn.

    Returns:
      Numbers of pairs, int64 `[queries / 2]`.
    """
    queries = np.flatnonzero(judged.count)
    half = len(queries) // 2
    keys = _SEED, sampling.JUDGEMENT_STREAM, sample
    uniform = sampling.random_uniform(*keys, count=len(queries) + half)[0]
    chosen = queries[np.argpartition(uniform[: len(queries)], half)[:half]]
    item = (uniform[len(queries) :] * judged.count[chosen]).astype(np.int64)
    return judged.candidate[judged.offset[chosen] + item]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Computes Spearman's correlation; equal values share the mean of their ranks.

    Args:
      first: int `[pairs]` of at least 0, whose order counts.
      second: int `[pairs]`.

    Returns:
      From -1 to 1; NaN if all values of one side are equal.
    """
    ranks = np.stack([_ranks(first), _ranks(second)])
    centered = ranks - ranks.mean(1, keepdims=True)
    (first_square, product), (_, second_square) = centered @ centered.T
    with np.errstate(invalid="ignore"):
        return float(product / np.sqrt(first_square * second_square))


def _levels(values: np.ndarray) -> np.ndarray:
    """Replaces each value by its position among the distinct values, int64."""
    return np.unique(values, return_inverse=True)[1]


def _ranks(levels: np.ndarray) -> np.ndarray:
    """Returns the ranks of small integers, which counting finds without a sort."""
    count = np.bincount(levels)
    return (np.cumsum(count) - (count - 1) / 2)[levels]
