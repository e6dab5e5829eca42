"""Exact search: the rows of a gallery that score highest for each query.

The gallery is read in blocks of a fixed shape. For each block the device computes all
scores and updates the best rows so far, so that memory does not depend on the size of
the gallery.

Sorting every score would take longer than computing them. A block is divided into
groups of consecutive rows, and only the best score of each group is compared first:

- If no group beats the last of the best rows so far, the block changes nothing.
- Otherwise the `k` best rows are in the `k` groups with the highest best scores: each
  of these groups has a row that is at least as good as any row of another group.

`jax.lax.approx_max_k` also reduces groups to their maxima, but it drops the other rows
of a group, so that its result is not exact.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax import parallel
from vse_jax.errors import InputError
from vse_jax.gallery.gallery import BLOCK_ROWS, Gallery
from vse_jax.similarity import BYTES, cosine, scores_of

GROUP_ROWS = 32
MAX_QUERIES = 256  # that are searched in one pass over the gallery
_FEWEST_RESULTS = 16  # a smaller `k` takes the same program
_SCORES_BYTES = 2**26  # memory for the scores of a block, approximately
_IN_FLIGHT = 4  # blocks that wait for the devices


class Found(NamedTuple):
    """The best rows of each query, best first; equal scores in the order of the rows.

    Attributes:
      scores: `[queries, k]` float32.
      rows: `[queries, k]` int64.
    """

    scores: np.ndarray
    rows: np.ndarray


def search(
    queries: np.ndarray,
    gallery: Gallery | np.ndarray,
    k: int,
    *,
    similarity: str = "",
    content: str = "",
    bias: np.ndarray | None = None,
) -> Found:
    """Finds the `k` rows of a gallery that score highest for each query.

    Uses all devices of this host. The program is compiled once for each shape: the
    number of queries is rounded up to a power of two, and so is `k`.

    Args:
      queries: `[queries, embed]` float32.
      gallery: a gallery, or its embeddings `[rows, embed]` float16 or float32.
      k: number of results; of a smaller gallery all rows are results.
      similarity: one of `similarity.SIMILARITIES`; "" for that of the gallery.
      content: `images` or `captions`, what the gallery holds; "" for that of the
        gallery. The order similarity takes the queries for the other side.
      bias: `[rows]` float32, which is subtracted from the scores of each row, see
        `hubness`; None for none.

    Raises:
      InputError: if a query is not finite or has other dimensions than the gallery, if
        `k` is less than 1, or if the gallery has 2**31 rows or more.
      ValueError: if `bias` has another number of rows than the gallery.
    """
    source = _Source.of(gallery, similarity, content)
    queries = checked_queries(queries, source.dim, k)
    if bias is not None and bias.shape != (source.rows,):
        raise ValueError(f"bias of shape {bias.shape} for {source.rows} rows")
    if source.rows >= 2**31:
        raise InputError(
            f"the gallery has {source.rows:,} rows, but a search takes less than 2**31"
        )
    k = min(k, source.rows)
    parts = [
        _search(queries[start : start + MAX_QUERIES], source, k, bias)
        for start in range(0, len(queries), MAX_QUERIES)
    ]
    if not parts:
        return Found(np.empty((0, k), np.float32), np.empty((0, k), np.int64))
    return Found(*map(np.concatenate, zip(*parts, strict=True)))


class _Source(NamedTuple):
    """What is searched."""

    rows: int
    dim: int
    similarity: str
    content: str
    blocks: Callable[[int], Iterator[np.ndarray]]

    @classmethod
    def of(cls, gallery, similarity, content):
        if isinstance(gallery, Gallery):
            return cls(
                gallery.rows,
                gallery.dim,
                similarity or gallery.similarity,
                content or gallery.content,
                gallery.blocks,
            )

        def blocks(rows):
            return (gallery[i : i + rows] for i in range(0, len(gallery), rows))

        return cls(*gallery.shape, similarity or "cosine", content or "images", blocks)


def checked_queries(queries: np.ndarray, dim: int, k: int) -> np.ndarray:
    """Returns the embeddings of queries as float32, `[queries, embed]`.

    Raises:
      InputError: if they are not finite, if their shape is another one, or if fewer
        than one result is asked for.
    """
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(
            f"the queries have the shape {list(queries.shape)}, but the gallery has "
            f"{dim} dimensions; embed them with the model of the gallery"
        )
    finite = np.isfinite(queries).all(1)
    if not finite.all():
        row = int(finite.argmin())
        raise InputError(f"the embedding of query {row + 1} is not finite")
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    return queries


def _search(queries, source, k, bias):
    """Searches for at most `MAX_QUERIES` queries."""
    count = _power_of_two(len(queries))
    kept = max(_FEWEST_RESULTS, _power_of_two(k))
    best = _Best(source.similarity, source.content, count, kept)
    padded = np.pad(queries, ((0, count - len(queries)), (0, 0)))
    best.start(padded)
    rows = _block_rows(count)
    first = 0
    for block in source.blocks(rows * best.devices):
        part = None if bias is None else bias[first : first + len(block)]
        best.add(block, first, part, rows)
        first += len(block)
    scores, found = best.fetch()
    return scores[: len(queries), :k], found[: len(queries), :k]


def _power_of_two(number):
    return 1 << (number - 1).bit_length()


def _block_rows(queries):
    """Returns how many rows a device takes at a time; a multiple of `GROUP_ROWS`."""
    rows = _SCORES_BYTES // (BYTES * queries)
    return min(BLOCK_ROWS, max(GROUP_ROWS, rows // GROUP_ROWS * GROUP_ROWS))


class _Best:
    """The best rows so far, on the devices, each of which has seen some of the rows."""

    def __init__(self, similarity: str, content: str, queries: int, k: int):
        self.devices = parallel.local_device_count()
        self._update = _mapped_update(similarity, content)
        shape = self.devices, queries, k
        self._best = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32)
        self._waiting = []

    def start(self, queries: np.ndarray) -> None:
        """Copies the queries to the devices."""
        self._queries = parallel.share_on_host(queries)

    def add(self, block, first, bias, rows):
        """Adds the rows of a block, at most `rows` for each device."""
        starts = np.arange(self.devices) * rows
        counts = np.clip(len(block) - starts, 0, rows)
        embeddings = _split(block, self.devices, rows)
        if bias is not None:
            bias = _split(np.asarray(bias, np.float32), self.devices, rows)
        place = np.stack([first + starts, counts], 1).astype(np.int32)
        self._best = self._update(self._best, self._queries, embeddings, bias, place)
        # Not all blocks at once, since each waiting block takes memory.
        self._waiting.append(self._best)
        if len(self._waiting) > _IN_FLIGHT:
            jax.block_until_ready(self._waiting.pop(0))

    def fetch(self) -> Found:
        """Returns the best rows over all devices."""
        scores, rows = (np.concatenate(np.asarray(x), axis=1) for x in self._best)
        order = np.lexsort((rows, -scores))
        # Rows of -1 stand for none.
        return Found(
            np.take_along_axis(scores, order, 1),
            np.take_along_axis(rows, order, 1).astype(np.int64),
        )


def _split(array, devices, rows):
    """Splits an array over the devices, `[devices, rows, ...]`, and fills it up."""
    missing = devices * rows - len(array)
    if missing:
        array = np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
    return array.reshape(devices, rows, *array.shape[1:])


@functools.cache
def _mapped_update(similarity, content):
    return parallel.map_over_local_devices(
        functools.partial(_update, similarity, content),
        (
            parallel.SPLIT,
            parallel.REPLICATED,
            parallel.SPLIT,
            parallel.SPLIT,
            parallel.SPLIT,
        ),
        parallel.SPLIT,
    )


def _update(similarity, content, best, queries, block, bias, place):
    """Updates the best rows of one device with a block.

    Args:
      similarity: name of the similarity.
      content: what the gallery holds.
      best: scores and rows, `[queries, k]`.
      queries: `[queries, embed]`.
      block: `[rows, embed]`.
      bias: `[rows]` or None.
      place: number of the first row, and the number of rows that exist.
    """
    first, count = place
    scores = _scores(similarity, content, queries, block)
    if bias is not None:
        scores -= bias[:, None]
    exists = jnp.arange(len(block)) < count
    scores = jnp.where(exists[:, None], scores, -jnp.inf)
    groups = scores.reshape(-1, GROUP_ROWS, len(queries))
    highest = groups.max(1)
    return jax.lax.cond(
        (highest > best[0][:, -1]).any(),
        lambda: _merge(best, groups, highest, first),
        lambda: best,
    )


def _scores(similarity, content, queries, block):
    """Computes `[rows, queries]`."""
    if similarity == "cosine" and len(queries) == 1:
        # On CPU this takes a third of the time of `[rows, 1]`.
        return cosine(queries, block).T
    return scores_of(similarity, content, block, queries)


def _merge(best, groups, highest, first):
    """Returns the best of `best` and of a block, lower rows first if scores are equal.

    Args:
      best: scores and rows, `[queries, k]`.
      groups: scores, `[groups, rows, queries]`.
      highest: highest score of each group, `[groups, queries]`.
      first: number of the first row.
    """
    (scores, rows), (queries, k) = best, best[0].shape
    number = min(k, len(groups))
    _, chosen = jax.lax.top_k(highest.T, number)
    chosen = jnp.sort(chosen)  # `[queries, number]`; so that lower rows come first
    # `[queries, number, rows]`
    candidates = groups[chosen, :, jnp.arange(queries)[:, None]]
    candidate_rows = (
        first + chosen[..., None] * groups.shape[1] + jnp.arange(groups.shape[1])
    )
    scores = jnp.concatenate([scores, candidates.reshape(queries, -1)], 1)
    rows = jnp.concatenate([rows, candidate_rows.reshape(queries, -1)], 1)
    scores, places = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(rows, places, 1)
