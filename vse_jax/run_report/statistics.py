"""Statistics of an evaluation, in NumPy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_RANK_EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)
_KS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100)
_BINS = 48  # of a histogram
_POINTS = 300  # of a curve, at most


class Bin(NamedTuple):
    """A range of ranks, lengths or counts.

    Attributes:
      label: the range as text, such as `6-10`.
      count: number of items in it.
    """

    label: str
    count: int


class RecallGroup(NamedTuple):
    """The recalls of a group of captions.

    Attributes:
      label: what the captions have in common.
      captions: number of captions.
      recalls: recall@1, @5 and @10 in percent.
    """

    label: str
    captions: int
    recalls: tuple[float, float, float]


class Choice(NamedTuple):
    """Numbers of the queries that are shown, int `[queries]` each."""

    best: np.ndarray
    median: np.ndarray
    worst: np.ndarray


def rank_histogram(ranks: np.ndarray, candidates: int) -> list[Bin]:
    """Counts ranks in bins that widen with the rank.

    Args:
      ranks: `[queries]` int, counted from 0.
      candidates: largest possible rank, counted from 1.

    Returns:
      Bins up to the largest possible rank. Their labels count ranks from 1.
    """
    edges = [edge for edge in _RANK_EDGES if edge < candidates]
    uppers = [*edges, candidates]
    counts = np.bincount(np.searchsorted(uppers, ranks + 1), minlength=len(uppers))
    lowers = [1, *(edge + 1 for edge in edges)]
    return [
        Bin(span(low, high), int(count))
        for low, high, count in zip(lowers, uppers, counts, strict=True)
    ]


def recall_curve(ranks: np.ndarray) -> list[tuple[int, float]]:
    """Returns recall@K in percent for K from 1 to 100, as pairs `(K, recall)`.

    Args:
      ranks: `[queries]` int, counted from 0.
    """
    return [(k, 100.0 * float(np.mean(ranks < k))) for k in _KS]


def shared_histogram(
    values: Sequence[np.ndarray],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns histograms of several arrays over the same bins.

    The bins have equal width, from the smallest to the largest value.

    Args:
      values: arrays of finite numbers.

    Returns:
      Edges `[bins + 1]`, and for each array the shares of its values in percent,
      `[bins]`.
    """
    together = np.concatenate(values)
    low, high = float(together.min()), float(together.max())
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    return edges, [
        100.0 * np.histogram(array, edges)[0] / max(1, len(array)) for array in values
    ]


def hub_histogram(counts: np.ndarray) -> list[Bin]:
    """Counts images by how often they are retrieved.

    Args:
      counts: `[images]` int, how often each image is among the first results; at
        least one image.

    Returns:
      Bins that double in width, from the first that has an image.
    """
    largest = int(counts.max(initial=0))
    edges = [0]
    while edges[-1] < largest:  # 0, 1, 2-3, 4-7, 8-15, ...
        edges.append(2 * edges[-1] + 1)
    binned = np.bincount(np.searchsorted(edges, counts), minlength=len(edges))
    lowers = [0, *(edge + 1 for edge in edges[:-1])]
    first = int(np.flatnonzero(binned)[0])
    return [
        Bin(span(low, high), int(count))
        for low, high, count in zip(lowers, edges, binned, strict=True)
    ][first:]


def skewness(counts: np.ndarray) -> float:
    """Returns the skewness of counts, the usual measure of hubness; 0 if all are equal.

    See Radovanovic et al., "Hubs in Space: Popular Nearest Neighbors in
    High-Dimensional Data", 2010.
    """
    deviation = counts - counts.mean()
    spread = np.sqrt(np.mean(deviation**2))
    return float(np.mean(deviation**3) / spread**3) if spread > 0 else 0.0


def recalls_by_group(
    ranks: np.ndarray, group: np.ndarray, labels: Sequence[str]
) -> list[RecallGroup]:
    """Returns the recalls of each group that has captions.

    Args:
      ranks: `[captions]` int, rank of each caption's image, counted from 0.
      group: `[captions]` int, number of each caption's group.
      labels: labels of the groups.
    """
    groups = []
    for number, label in enumerate(labels):
        some = ranks[group == number]
        if len(some):
            recalls = tuple(100.0 * float(np.mean(some < k)) for k in (1, 5, 10))
            groups.append(RecallGroup(label, len(some), recalls))
    return groups


def quantile_groups(
    values: np.ndarray, groups: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Divides integers into groups of about equal size; equal integers stay together.

    Args:
      values: `[items]` int, at least one.
      groups: largest number of groups.

    Returns:
      The group of each item, int `[items]`, and the least and greatest value of each
      group.
    """
    shares = np.arange(1, groups + 1) / groups
    uppers = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    group = np.searchsorted(uppers, values)
    members = [values[group == number] for number in range(len(uppers))]
    return group, [(int(some.min()), int(some.max())) for some in members]


def choose_queries(
    ranks: np.ndarray, margin: np.ndarray, image: np.ndarray, number: int
) -> Choice:
    """Chooses the best, the median and the worst queries, of different images.

    Args:
      ranks: `[queries]` int, rank of the right answer of each query.
      margin: `[queries]`, similarity of the right answer less that of the most similar
        wrong one, which decides between equal ranks.
      image: `[queries]` int, image of each query.
      number: queries of each kind; fewer if there are fewer images.
    """
    order = np.lexsort((-margin, ranks))  # the best first
    middle = len(order) // 2
    # From the middle outwards.
    around = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
    best = _first_of_images(order, image, number)
    worst = _first_of_images(order[::-1], image, number)
    return Choice(best, _first_of_images(around, image, number), worst)


def _first_of_images(order, image, number):
    _, first = np.unique(image[order], return_index=True)
    return order[np.sort(first)[:number]]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the sample standard deviation of at least two values."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns a curve of at most 300 points, each the mean of equally many.

    Args:
      curve: pairs of a step and a value.
    """
    size = -(-len(curve) // _POINTS)
    parts = [
        curve[start : start + size] for start in range(0, len(curve), max(1, size))
    ]
    return [
        (part[-1][0], float(np.mean([value for _, value in part]))) for part in parts
    ]


def span(low: int, high: int) -> str:
    """Returns a range of integers as text, such as `6-10` with an en dash."""
    return f"{low:,}" if low == high else f"{low:,}\u2013{high:,}"
