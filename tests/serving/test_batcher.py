"""Queries that are answered together get the answers that each would get alone."""

import asyncio
import threading

import numpy as np

from tests.serving.color_searcher import COLORS, FAILING, ColorSearcher
from vse_jax.errors import InputError
from vse_jax.search.queries import Part, Query
from vse_jax.serving import batcher
from vse_jax.serving.answers import RequestError
from vse_jax.serving.batcher import Batcher, Search


class HeldSearcher(ColorSearcher):
    """Waits with its first batch until `release` is set."""

    def __init__(self):
        super().__init__()
        self.release = threading.Event()

    def embed(self, queries):
        if not self.batches:
            self.release.wait(20)
        return super().embed(queries)


def search(*words, k=3, threshold=None):
    return Search(Query(tuple(Part(1.0, text=word) for word in words)), k, threshold)


def answer_all(searcher, searches):
    """Asks the first search, and all others while it is answered."""

    async def ask():
        together = Batcher(searcher)
        asked = [asyncio.create_task(together.search(s)) for s in searches]
        await asyncio.sleep(0.05)
        searcher.release.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def alone(one):
    hits = ColorSearcher()
    return hits.search(hits.embed([one.query]), one.k)[0]


def test_waiting_queries_are_one_batch():
    searcher = HeldSearcher()
    searches = [search(color, k=k) for color in COLORS for k in (1, 2, 5)]
    assert answer_all(searcher, searches) == list(map(alone, searches))
    assert searcher.batches == [1, len(searches) - 1]


def test_batches_are_limited():
    searcher = HeldSearcher()
    searches = [search("red")] * (2 * batcher.MAXIMUM_BATCH + 2)
    assert answer_all(searcher, searches) == list(map(alone, searches))
    assert searcher.batches == [1, batcher.MAXIMUM_BATCH, batcher.MAXIMUM_BATCH, 1]


def test_a_query_waits_for_no_other():
    searcher = ColorSearcher()

    async def ask():
        together = Batcher(searcher)
        return [await together.search(search(color)) for color in COLORS]

    assert asyncio.run(ask()) == [alone(search(color)) for color in COLORS]
    assert searcher.batches == len(COLORS) * [1]


def test_results_above_the_own_threshold():
    searches = [search("red", threshold=t, k=6) for t in (None, -1, 0.5, 0.9, 2)]
    answers = answer_all(HeldSearcher(), searches)
    scores = np.array([hit.score for hit in alone(search("red", k=6))])
    expected = [6, 6, *((scores >= t).sum() for t in (0.5, 0.9)), 0]
    assert list(map(len, answers)) == expected


def test_many_results_are_searched_apart():
    asked = []

    class Searcher(HeldSearcher):
        def search(self, embeddings, k, threshold=None):
            asked.append((len(embeddings), k))
            return super().search(embeddings, k)

    searches = [search("red", k=k) for k in (1, 9, 1000, 2, 500, 5)]
    assert answer_all(Searcher(), searches) == list(map(alone, searches))
    assert asked == [(1, 1), (3, 9), (2, 1000)]


def test_invalid_and_failing_queries_fail_alone():
    searches = [search(w) for w in ("red", "green", " ", "blue", FAILING, "pink")]
    answers = answer_all(HeldSearcher(), searches)
    for one, answer in zip(searches, answers, strict=True):
        if one.query.name in COLORS:
            assert answer == alone(one)
    assert isinstance(answers[2], InputError)
    assert isinstance(answers[4], RuntimeError)


def test_too_many_queries_are_refused_and_the_others_answered():
    searches = [search("red")] * (batcher.MAXIMUM_WAITING + 3)
    answers = answer_all(HeldSearcher(), searches)
    assert answers[:-2] == [alone(searches[0])] * (len(searches) - 2)
    for refused in answers[-2:]:
        assert isinstance(refused, RequestError)
        assert refused.status == 503


def test_abandoned_queries_do_not_disturb_others():
    searcher = HeldSearcher()

    async def ask():
        together = Batcher(searcher)
        asked = [asyncio.create_task(together.search(search(c))) for c in COLORS]
        await asyncio.sleep(0.05)
        for task in asked[::2]:
            task.cancel()
        searcher.release.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert answers[1::2] == [alone(search(c)) for c in list(COLORS)[1::2]]
