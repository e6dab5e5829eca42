"""Pictures are kept up to a number of bytes, the last ones asked for."""

import concurrent.futures

from tests.serving.color_searcher import COLORS, ColorSearcher, photo_of
from vse_jax.serving.pictures import PictureCache


class CountingSearcher(ColorSearcher):
    def __init__(self):
        super().__init__()
        self.read = []

    def picture(self, row):
        self.read.append(row)
        return photo_of(list(COLORS.values())[row], (300, 200)) if row < 5 else None


def test_pictures_are_read_once():
    searcher = CountingSearcher()
    cache = PictureCache(searcher)
    pictures = [cache.get(row, "small") for row in (0, 1, 0, 1)]
    assert pictures[:2] == pictures[2:]
    assert pictures[0] != pictures[1]
    assert searcher.read == [0, 1]
    assert cache.get(5, "small") is None


def test_the_pictures_not_asked_for_longest_are_dropped():
    searcher = CountingSearcher()
    size = len(PictureCache(searcher).get(0, "small"))
    searcher.read.clear()
    cache = PictureCache(searcher, kept_bytes=int(2.5 * size))
    for row in (0, 1, 0, 2, 0, 1):  # 2 replaces 1, then 1 replaces 2
        cache.get(row, "small")
    assert searcher.read == [0, 1, 2, 1]


def test_a_picture_larger_than_the_cache_is_still_given():
    cache = PictureCache(CountingSearcher(), kept_bytes=10)
    assert cache.get(0, "small") == cache.get(0, "small") != b""


def test_threads_share_it():
    searcher = CountingSearcher()
    size = len(PictureCache(searcher).get(0, "small"))
    cache = PictureCache(searcher, kept_bytes=2 * size)
    alone = [PictureCache(searcher).get(row, "large") for row in range(5)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: cache.get(i % 5, "large"), range(200)))
    assert found == [alone[i % 5] for i in range(200)]
