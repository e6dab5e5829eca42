import numpy as np
import pytest

from tests.gallery.small_galleries import DIM, description
from vse_jax.errors import InputError
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.rows import Record
from vse_jax.gallery.writer import GalleryWriter
from vse_jax.search import exact

pytestmark = pytest.mark.usefixtures("quick_compilation")


def naive_scores(queries, rows, similarity, content):
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    if similarity == "cosine":
        return queries @ rows.T
    differences = queries[:, None] - rows
    if content == "captions":
        differences = -differences
    return -np.linalg.norm(np.maximum(0, differences), axis=2)


def naive_search(scores, k):
    """Sorts all rows; lower rows come first if scores are equal."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def integers(rows, queries=5, seed=0):
    """Small integers, whose products are exact, so that many scores tie."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(-2, 3, (number, DIM)).astype(dtype)
        for number, dtype in ((queries, np.float32), (rows, np.float16))
    ]


def assert_is_naive(queries, rows, k, similarity="cosine", content="images", bias=None):
    scores = naive_scores(queries, rows, similarity, content)
    scores -= 0 if bias is None else bias
    expected = naive_search(scores, k)
    found = exact.search(
        queries, rows, k, similarity=similarity, content=content, bias=bias
    )
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(found.scores, expected[0], atol=1e-5)
    np.testing.assert_array_equal(found.rows, expected[1])


@pytest.fixture
def small_blocks(monkeypatch):
    """Divides few rows into many blocks, for the eight devices of the tests."""
    monkeypatch.setattr(exact, "BLOCK_ROWS", 16)
    monkeypatch.setattr(exact, "GROUP_ROWS", 4)
    monkeypatch.setattr(exact, "_FEWEST_RESULTS", 1)
    exact._mapped_update.cache_clear()
    yield
    exact._mapped_update.cache_clear()


@pytest.mark.parametrize(
    ("similarity", "content"),
    [("cosine", "images"), ("order", "images"), ("order", "captions")],
)
@pytest.mark.parametrize("queries", [1, 5])
def test_search_is_that_of_a_sort(small_blocks, similarity, content, queries):
    assert_is_naive(*integers(1000, queries), 3, similarity, content)


@pytest.mark.parametrize("rows", [1, 15, 128, 129, 700])
@pytest.mark.parametrize("k", [1, 6, 40])
def test_numbers_of_rows_and_results(small_blocks, rows, k):
    assert_is_naive(*integers(rows), k)


@pytest.mark.parametrize("sizes", [(4, 4), (32, 8), (512, 32), (4096, 32)])
def test_sizes_of_blocks_do_not_matter(small_blocks, monkeypatch, sizes):
    for name, size in zip(("BLOCK_ROWS", "GROUP_ROWS"), sizes, strict=True):
        monkeypatch.setattr(exact, name, size)
    assert_is_naive(*integers(3000, seed=1), 20)


def test_many_queries_take_several_passes(small_blocks, monkeypatch):
    monkeypatch.setattr(exact, "MAX_QUERIES", 4)
    assert_is_naive(*integers(200, queries=11), 5)


def test_memory_for_scores_is_bounded(small_blocks, monkeypatch):
    monkeypatch.setattr(exact, "_SCORES_BYTES", 1)
    assert exact._block_rows(64) == 4
    assert_is_naive(*integers(100), 5, "order")


def test_bias_is_subtracted(small_blocks):
    queries, rows = integers(500)
    bias = np.random.default_rng(2).integers(-3, 4, 500).astype(np.float32)
    assert_is_naive(queries, rows, 7, bias=bias)


def test_equal_rows_are_found_in_order():
    queries, rows = np.ones((1, DIM), np.float32), np.ones((300, DIM), np.float16)
    assert exact.search(queries, rows, 20).rows.tolist() == [list(range(20))]


def test_opposite_zeros_are_equal(small_blocks):
    rows = np.zeros((8, DIM), np.float16)
    rows[:4] = -0.0
    queries = np.ones((1, DIM), np.float32)
    assert exact.search(queries, rows, 8).rows.tolist() == [list(range(8))]


def test_gallery_gives_similarity_and_content(small_blocks, tmp_path):
    queries, rows = integers(100)
    of_captions = description(similarity="order", content="captions")
    with GalleryWriter(tmp_path, of_captions, shard_bytes=2 * DIM * 33) as writer:
        writer.write(rows, [Record(str(i)) for i in range(100)])
    found = exact.search(queries, Gallery.open(tmp_path), 9)
    expected = naive_search(naive_scores(queries, rows, "order", "captions"), 9)
    np.testing.assert_allclose(found.scores, expected[0], atol=1e-5)
    np.testing.assert_array_equal(found.rows, expected[1])


@pytest.mark.parametrize("number", [0, 3])
def test_nothing_to_find(number):
    queries, rows = np.ones((number, DIM), np.float32), np.ones((0, DIM), np.float16)
    found = exact.search(queries, rows, 5)
    assert found.scores.shape == found.rows.shape == (number, 0)
    assert exact.search(queries[:0], np.ones((9, DIM)), 5).rows.shape == (0, 5)


@pytest.mark.parametrize(
    ("queries", "k", "words"),
    [
        (np.ones((2, DIM + 1)), 1, r"shape \[2, 9\], but the gallery has 8 dim"),
        (np.ones(DIM), 1, r"shape \[8\]"),
        ([[1] * DIM, [np.nan] * DIM], 1, "query 2 is not finite"),
        (np.ones((2, DIM)), 0, "k is 0; expected at least 1"),
    ],
)
def test_invalid_queries(queries, k, words):
    with pytest.raises(InputError, match=words):
        exact.search(queries, np.ones((5, DIM), np.float16), k)
