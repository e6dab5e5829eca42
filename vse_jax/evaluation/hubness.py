"""Correction of hubness: some items are among the best results of many queries.

Nearest Neighbor Normalization (Chowdhury et al., "Nearest Neighbor Normalization
Improves Multimodal Retrieval", 2024) subtracts a bias from all scores of an item:
`alpha` times the mean of its `k` largest similarities to a bank of queries, such as
the captions of the training split.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from vse_jax import parallel
from vse_jax.data.sampling import evenly_spaced
from vse_jax.errors import InputError
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.retrieval import Biases
from vse_jax.similarity import BYTES, scores_of

MAX_BANK = 100_000  # queries; of more, evenly spaced ones are taken
_SCORES_BYTES = 2**27  # memory for scores, approximately


def bias(
    embeddings: np.ndarray | Iterable[np.ndarray],
    bank: np.ndarray,
    *,
    alpha: float,
    k: int,
    similarity: str,
    content: str,
) -> np.ndarray:
    """Computes `alpha` times the mean of the `k` largest similarities of each row.

    Args:
      embeddings: `[rows, embed]` float, or blocks of them.
      bank: embeddings of queries, `[queries, embed]` float. At most `MAX_BANK` evenly
        spaced ones are used.
      alpha: weight of the bias.
      k: number of largest similarities, at most that of the queries.
      similarity: one of `similarity.SIMILARITIES`.
      content: `images` or `captions`, what the rows are. The order similarity takes the
        bank for the other side.

    Returns:
      `[rows]` float32.

    Raises:
      InputError: if the bank is empty or an option is out of range.
    """
    _check(bank, alpha, k)
    bank = thinned(bank)
    update = _mapped_mean(similarity, content, min(k, len(bank)))
    shared = parallel.share_on_host(np.asarray(bank, np.float32))
    blocks = [embeddings] if isinstance(embeddings, np.ndarray) else embeddings
    rows = _rows_at_once(bank)
    means = [
        parallel.fetch_rows(update(part, shared))[:count]
        for part, count in _parts(blocks, rows)
    ]
    return alpha * np.concatenate([np.empty(0, np.float32), *means])


def biases(
    embeddings: Embeddings,
    bank: Embeddings,
    *,
    alpha: float,
    k: int,
    similarity: str,
) -> Biases:
    """Computes the biases of images and captions, each with a bank of the other side.

    Args:
      embeddings: images and captions to be ranked.
      bank: images and captions of a training split.
      alpha: weight of the biases.
      k: number of largest similarities.
      similarity: one of `similarity.SIMILARITIES`.

    Returns:
      A `Biases`, float32.

    Raises:
      InputError: see `bias`.
    """
    options = {"alpha": alpha, "k": k, "similarity": similarity}
    return Biases(
        bias(embeddings.images, bank.captions, content="images", **options),
        bias(embeddings.captions, bank.images, content="captions", **options),
    )


def thinned(bank: np.ndarray) -> np.ndarray:
    """Returns at most `MAX_BANK` evenly spaced queries of a bank."""
    if len(bank) <= MAX_BANK:
        return bank
    return bank[evenly_spaced(MAX_BANK, len(bank))]


def _check(bank, alpha, k):
    if not len(bank):
        raise InputError(
            "the correction of hubness has no queries; give it the captions or images "
            "of a training split"
        )
    if k < 1 or not 0 <= alpha < np.inf:
        raise InputError(
            f"the correction of hubness has alpha {alpha} and k {k}; expected alpha of "
            "at least 0 and k of at least 1"
        )


def _rows_at_once(bank):
    """Returns how many rows a device takes at a time."""
    return max(8, min(1024, _SCORES_BYTES // (BYTES * len(bank))))


def _parts(blocks, rows) -> Iterator[tuple[np.ndarray, int]]:
    """Yields parts `[devices, rows, embed]`, and how many of their rows exist."""
    size = parallel.local_device_count() * rows
    for block in blocks:
        for start in range(0, len(block), size):
            part = block[start : start + size]
            padding = [(0, size - len(part)), (0, 0)]
            full = np.pad(part, padding) if len(part) < size else part
            yield parallel.shard({"rows": full})["rows"], len(part)


@functools.cache
def _mapped_mean(similarity, content, k):
    function = functools.partial(_mean_of_largest, similarity, content, k)
    specs = parallel.SPLIT, parallel.REPLICATED
    return parallel.map_over_local_devices(function, specs, parallel.SPLIT)


def _mean_of_largest(similarity, content, k, rows, bank):
    """Computes the mean of the `k` largest similarities of each row, `[rows]`."""
    scores = scores_of(similarity, content, rows, bank)
    return jax.lax.top_k(scores, k)[0].mean(1)


def digest_of(bank: np.ndarray) -> str:
    """Returns the SHA-256 of the queries that are taken from a bank."""
    taken = np.ascontiguousarray(thinned(bank), np.float32)
    return hashlib.sha256(taken.tobytes()).hexdigest()
