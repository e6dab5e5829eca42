"""The relation of queries and their right answers, as a sparse matrix."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Relevance:
    """Which candidates are relevant to each query, in compressed sparse rows.

    Any pair may be relevant, and a query may have no relevant candidate. On the usual
    ground truth, a caption is relevant to the image of the same ID (`of_ids`).

    Attributes:
      offset: int64 `[queries + 1]`; query i has the candidates
        `candidate[offset[i]:offset[i + 1]]`.
      candidate: int64 `[pairs]`, ascending within each query.
    """

    offset: np.ndarray
    candidate: np.ndarray

    @classmethod
    def of_pairs(
        cls, query: np.ndarray, candidate: np.ndarray, queries: int
    ) -> "Relevance":
        """Returns the relation that has the given pairs; repeated pairs count once.

        Args:
          query: int `[pairs]`, in any order.
          candidate: int `[pairs]`.
          queries: number of queries.
        """
        pairs = np.stack([query, candidate], axis=1).astype(np.int64)
        pairs = np.unique(pairs, axis=0)
        count = np.bincount(pairs[:, 0], minlength=queries)
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        return cls(offset, pairs[:, 1])

    @classmethod
    def of_ids(cls, query_id: np.ndarray, candidate_id: np.ndarray) -> "Relevance":
        """Returns the relation of all queries and candidates that have equal IDs.

        Args:
          query_id: int `[queries]`.
          candidate_id: int `[candidates]`.
        """
        query_id, candidate_id = np.asarray(query_id), np.asarray(candidate_id)
        order = np.argsort(candidate_id, kind="stable")
        ordered = candidate_id[order]
        start = np.searchsorted(ordered, query_id)
        count = np.searchsorted(ordered, query_id, side="right") - start
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        position = np.arange(offset[-1]) + np.repeat(start - offset[:-1], count)
        return cls(offset, order[position])

    @functools.cached_property
    def count(self) -> np.ndarray:
        """Number of relevant candidates of each query, int64 `[queries]`."""
        return np.diff(self.offset)

    @functools.cached_property
    def query(self) -> np.ndarray:
        """Query of each pair, int64 `[pairs]`."""
        return np.repeat(np.arange(len(self.count)), self.count)
