"""Ranks of all relevant candidates of each query, for any relation of relevance.

As in `retrieval`, ties count against the model, and no list of candidates is sorted:
for each relevant candidate, the device counts the wrong candidates that score at least
as high. If the counts of a query are sorted, the i-th relevant candidate (from 0) has
the rank `wrong[i] + i`, since i relevant ones are ahead of it.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax import parallel
from vse_jax.evaluation.counting import count_not_below
from vse_jax.evaluation.relevance import Relevance
from vse_jax.evaluation.score_tiles import Side, with_model_axis
from vse_jax.similarity import scores_of

BLOCK = 256  # queries whose scores are in memory at the same time
# Candidates are padded to a multiple of this, so that the same inner loop computes
# every score and equal embeddings have exactly equal scores.
TILE = 512
SLOTS = 8  # relevant candidates of a query that are counted at the same time


class RelevantRanks(NamedTuple):
    """Ranks of the relevant candidates of each query that has any.

    Attributes:
      query: int64 `[queries]`, ascending. Queries without relevant candidates are
        absent.
      offset: int64 `[queries + 1]`; row i has the ranks
        `rank[offset[i]:offset[i + 1]]`.
      rank: int64 `[pairs]`, counted from 0, ascending within a row.
    """

    query: np.ndarray
    offset: np.ndarray
    rank: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """Rank of the first relevant candidate of each query, int64 `[queries]`."""
        return self.rank[self.offset[:-1]]

    @property
    def count(self) -> np.ndarray:
        """Number of ranks of each query, int64 `[queries]`."""
        return np.diff(self.offset)

    @property
    def place(self) -> np.ndarray:
        """Place of each rank within its query, from 0, int64 `[pairs]`."""
        return np.arange(len(self.rank)) - np.repeat(self.offset[:-1], self.count)


def rank_relevant(
    queries: np.ndarray,
    candidates: np.ndarray,
    relevance: Relevance,
    *,
    similarity: str,
    content: str = "images",
    among_themselves: bool = False,
    best_only: bool = False,
) -> RelevantRanks:
    """Ranks the relevant candidates of each query among all candidates.

    Args:
      queries: `[queries, embed]` float32, or `[models, queries, embed]` for an
        ensemble, whose similarities are averaged.
      candidates: `[candidates, embed]` or `[models, candidates, embed]` float32.
      relevance: relation of the queries and candidates.
      similarity: one of `similarity.SIMILARITIES`.
      content: `images` or `captions`, what the queries are. It matters for `order`.
      among_themselves: whether queries and candidates are the same items. A query is
        then not its own candidate.
      best_only: whether only the first relevant candidate of each query is ranked,
        which takes less time.

    Returns:
      A `RelevantRanks`; with `best_only`, one rank per query.
    """
    queries, side = with_model_axis(queries), Side(with_model_axis(candidates), TILE)
    tiles = jnp.stack(side.tiles())
    count = np.minimum(relevance.count, 1) if best_only else relevance.count
    offset = np.concatenate([[0], np.cumsum(count)])
    wrong = np.zeros(offset[-1], np.int64)
    for block in _blocks(relevance):
        scores = _scores(
            jnp.asarray(queries[:, block.query]),
            tiles,
            jnp.asarray(block.query if among_themselves else block.nobody, jnp.int32),
            len(side),
            similarity=similarity,
            content=content,
        )
        number = len(side) - among_themselves
        counts = _count_wrong(scores, block.candidate, number, best_only)
        counts = np.sort(counts, axis=1)
        query = block.query[: block.size, None]
        slot = np.arange(counts.shape[1])
        is_used = slot < count[query]
        wrong[(offset[query] + slot)[is_used]] = counts[: block.size][is_used]
    answerable = np.flatnonzero(count)
    offset = np.append(offset[answerable], len(wrong))
    ranks = RelevantRanks(answerable, offset, wrong)
    return ranks._replace(rank=wrong + ranks.place)


class _Block(NamedTuple):
    """Some queries and their relevant candidates.

    Attributes:
      query: int64 `[BLOCK]`, of which the first `size` exist.
      candidate: int64 `[BLOCK, slots]`, -1 for an empty slot.
      size: number of queries.
    """

    query: np.ndarray
    candidate: np.ndarray
    size: int

    @property
    def nobody(self) -> np.ndarray:
        """An index of no candidate for each query, int64 `[BLOCK]`."""
        return np.full_like(self.query, -1)


def _blocks(relevance: Relevance) -> Iterator[_Block]:
    """Yields blocks of queries with similar numbers of relevant candidates."""
    ordered = np.argsort(relevance.count, kind="stable")
    ordered = ordered[relevance.count[ordered] > 0]
    for start in range(0, len(ordered), BLOCK):
        rows = ordered[start : start + BLOCK]
        slots = -(-relevance.count[rows[-1]] // SLOTS) * SLOTS
        query = np.pad(rows, (0, BLOCK - len(rows)))
        position = relevance.offset[query][:, None] + np.arange(slots)
        is_used = np.arange(slots) < relevance.count[query][:, None]
        position = np.where(is_used, position, 0)
        candidate = np.where(is_used, relevance.candidate[position], -1)
        yield _Block(query, candidate, len(rows))


@functools.partial(parallel.jit_in_float32, static_argnames=("similarity", "content"))
def _scores(queries, tiles, own, number, *, similarity, content):
    """Computes the scores `[tiles, queries, TILE]`, -inf of what is no candidate.

    Args:
      queries: `[models, queries, embed]`.
      tiles: candidates, `[tiles, models, TILE, embed]`.
      own: int32 `[queries]`, candidate that the query itself is, or -1.
      number: number of candidates; the others are padding.
      similarity: one of `similarity.SIMILARITIES`.
      content: `images` or `captions`, what the queries are.
    """

    def of_tile(numbered):
        tile, embeddings = numbered
        scores = jax.vmap(functools.partial(scores_of, similarity, content))
        scores = scores(queries, embeddings).mean(0)
        column = tile * TILE + jnp.arange(TILE)
        is_candidate = (column < number) & (column != own[:, None])
        return jnp.where(is_candidate, scores, -jnp.inf)

    return jax.lax.map(of_tile, (jnp.arange(len(tiles)), tiles))


def _count_wrong(scores, candidate, number, best_only):
    """Counts, per relevant candidate, the wrong ones that do not score below it.

    Args:
      scores: see `_scores`.
      candidate: int64 `[queries, slots]`, relevant candidates, -1 for empty slots.
      number: number of candidates of a query.
      best_only: whether only the best relevant candidate of a query is compared.

    Returns:
      int64 `[queries, slots]`, the largest number for empty slots; with `best_only`
      `[queries, 1]`, of the best relevant candidate.
    """
    exists = candidate >= 0
    relevant = _in_parts(_scores_at, scores, candidate)
    limits = relevant.max(1, keepdims=True) if best_only else relevant
    ahead = _in_parts(_count_ahead, scores, limits).astype(np.int64)
    # What is no candidate has -inf, which is below every limit but NaN.
    ahead = np.where(np.isnan(limits), number, ahead)
    ahead -= _in_parts(_count_relevant_ahead, (relevant, exists), limits)
    empty = np.iinfo(np.int64).max
    return ahead if best_only else np.where(exists, ahead, empty)


def _count_relevant_ahead(relevant, limits):
    """Counts the relevant candidates not below each limit, int64 `[queries, slots]`.

    Args:
      relevant: their scores `[queries, relevant]`, and whether each exists.
      limits: `[queries, slots]`.
    """
    scores, exists = relevant
    ahead = ~(scores[:, None] < limits[:, :, None])
    return (ahead & exists[:, None]).sum(2)


def _in_parts(function, scores, values):
    """Applies a function of scores and `[queries, slots]` to `SLOTS` slots at a time.

    So it is compiled once for all numbers of slots, and needs memory for few of them. A
    single slot is not padded.
    """
    slots = range(0, values.shape[1], SLOTS)
    parts = [function(scores, values[:, slot : slot + SLOTS]) for slot in slots]
    return np.concatenate(parts, axis=1)


@jax.jit
def _scores_at(scores, candidate):
    """Returns the scores of candidates, `[queries, slots]`, -inf of empty slots."""
    row = jnp.arange(candidate.shape[0])[:, None]
    relevant = scores[candidate // TILE, row, candidate % TILE]
    return jnp.where(candidate >= 0, relevant, -jnp.inf)


@jax.jit
def _count_ahead(scores, limits):
    """Counts the candidates not below each limit, int32 `[queries, slots]`."""

    def add_ahead(count, tile):
        ahead = count_not_below(tile[:, None], limits[:, :, None], axis=2)
        return count + ahead, None

    return jax.lax.scan(add_ahead, jnp.zeros(limits.shape, jnp.int32), scores)[0]
