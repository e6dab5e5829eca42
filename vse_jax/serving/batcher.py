"""Answers concurrent queries together: one batch through the model and the gallery."""

import asyncio
import collections
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vse_jax.search.queries import Query
from vse_jax.search.searcher import Hit, Searcher
from vse_jax.serving.answers import RequestError

MAXIMUM_BATCH = 32  # queries; more would not take less time each
MAXIMUM_WAITING = 512  # queries
_FEW_RESULTS = 100  # queries for more results are searched apart, as they take longer


class Search(NamedTuple):
    """What to search.

    Attributes:
      query: the query.
      k: number of results.
      threshold: least similarity of a result; None for any.
    """

    query: Query
    k: int
    threshold: float | None = None


class Batcher:
    """Collects the next batch of queries while a thread answers the one before.

    All methods are called in one event loop.
    """

    def __init__(self, searcher: Searcher):
        """Starts nothing yet."""
        self._searcher = searcher
        self._waiting = collections.deque()
        self._is_busy = False
        self._thread = ThreadPoolExecutor(1, "search")

    async def search(self, search: Search) -> list[Hit]:
        """Answers a query in the next batch.

        Raises:
          RequestError: 503 if too many queries wait.
          InputError: if the query is invalid.
        """
        if len(self._waiting) >= MAXIMUM_WAITING:
            raise RequestError(
                503, "too many queries are waiting; try again", {"retry-after": "1"}
            )
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting.append((search, answer))
        if not self._is_busy:
            self._start_batch(loop)
        return await answer

    def _start_batch(self, loop):
        count = min(len(self._waiting), MAXIMUM_BATCH)
        batch = [self._waiting.popleft() for _ in range(count)]
        self._is_busy = bool(batch)
        if not batch:
            return
        searches = [search for search, _ in batch]
        computed = loop.run_in_executor(self._thread, self._answer, searches)
        computed.add_done_callback(lambda done: self._end_batch(loop, batch, done))

    def _end_batch(self, loop, batch, computed):
        self._start_batch(loop)  # before the answers are written
        for (_, answer), found in zip(batch, computed.result(), strict=True):
            if answer.done():
                continue  # its request was canceled
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    def _answer(self, searches: Sequence[Search]) -> list[list[Hit] | Exception]:
        """Answers a batch; if that fails, each query alone, to find the invalid one."""
        try:
            return self._answer_together(searches)
        except Exception as error:
            if len(searches) == 1:
                return [error]
        return [self._answer([search])[0] for search in searches]

    def _answer_together(self, searches):
        embeddings = self._searcher.embed([search.query for search in searches])
        found = [None] * len(searches)
        for is_few in (True, False):
            chosen = [
                i for i, s in enumerate(searches) if (s.k <= _FEW_RESULTS) == is_few
            ]
            if not chosen:
                continue
            most = max(searches[i].k for i in chosen)
            results = self._searcher.search(embeddings[chosen], most)
            for i, hits in zip(chosen, results, strict=True):
                found[i] = _wanted(searches[i], hits)
        return found


def _wanted(search: Search, hits: list[Hit]) -> list[Hit]:
    threshold = -math.inf if search.threshold is None else search.threshold
    return [hit for hit in hits[: search.k] if hit.score >= threshold]
