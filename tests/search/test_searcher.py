"""Searches against a naive ranking of the embeddings of the Python API."""

import numpy as np
import pytest

from configs import common
from tests import saved_runs
from vse_jax.errors import InputError
from vse_jax.gallery.encode import encode
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.sources import Split
from vse_jax.retrieval_model import load
from vse_jax.search import build_index
from vse_jax.search.queries import Part, Query, text_query
from vse_jax.search.searcher import Searcher
from vse_jax.similarity import SIMILARITIES

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")


@pytest.fixture(scope="module")
def searcher(scene_run, scene_model, tmp_path_factory):
    return _searcher(scene_model, scene_run[1], tmp_path_factory.mktemp("gallery"))


def _searcher(model, experiment, folder, content="images"):
    options = common.get_config().gallery
    options.dtype = "float32"
    encode(model, Split(experiment, "test", content), folder / "g", options)
    return Searcher(model, Gallery.open(folder / "g"))


def naive(searcher, embedding, k):
    """Returns IDs and scores of a ranking of all rows."""
    rows = searcher.gallery.embeddings_at(range(searcher.gallery.rows))
    scores = rows @ embedding
    best = np.argsort(-scores, kind="stable")[:k]
    return [searcher.gallery.row(row).id for row in best], scores[best]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_words_find_the_nearest_images(searcher):
    texts = ["a red circle above a blue square", "a big star"]
    hits = searcher.search(searcher.embed([text_query(t) for t in texts]), 4)
    for text, found in zip(texts, hits, strict=True):
        ids, scores = naive(searcher, searcher.model.embed_captions(text)[0], 4)
        assert [hit.id for hit in found] == ids
        assert [hit.rank for hit in found] == [1, 2, 3, 4]
        np.testing.assert_allclose([hit.score for hit in found], scores, atol=1e-5)
        assert all(len(hit.captions) == 5 and hit.path is None for hit in found)


def test_sums_and_differences_of_words_photos_and_rows(searcher, scene_run):
    photo = scene_run[1].builder.as_data_source("test")[2]["image"]
    query = Query(
        (Part(1, "a dog"), Part(-0.5, "a star"), Part(2, photo=photo), Part(1, row=3))
    )
    model = searcher.model
    parts = np.concatenate(
        [
            unit(model.embed_captions(["a dog", "a star"])),
            unit(model.embed_images([photo])),
            unit(searcher.gallery.embeddings_at([3])),
        ]
    )
    expected = unit(np.array([1, -0.5, 2, 1], np.float32) @ parts)
    other = text_query("a box")
    embedded = searcher.embed([other, query])
    np.testing.assert_allclose(embedded[1], expected, atol=1e-5)
    np.testing.assert_allclose(embedded[0], model.embed_captions("a box")[0], atol=1e-5)


def test_a_text_alone_is_not_scaled(searcher, monkeypatch):
    """As the images of VSE0, whose similarities are those of no unit vectors."""
    embed = searcher.model.embed_captions
    monkeypatch.setattr(
        searcher.model, "embed_captions", lambda texts, name: 3 * embed(texts)
    )
    alone, doubled = text_query("a star"), Query((Part(2.0, "a star"),))
    expected = embed("a star")[0]
    for queries in ([alone], [doubled, alone]):
        np.testing.assert_allclose(searcher.embed(queries)[-1], 3 * expected, atol=1e-5)
    np.testing.assert_allclose(searcher.embed([doubled])[0], expected, atol=1e-5)


def test_a_row_is_most_similar_to_itself(searcher):
    for row in (0, 9):
        (hits,) = searcher.search(searcher.embed([Query((Part(1, row=row),))]), 3)
        assert hits[0].row == row


def test_threshold_and_a_top_that_is_larger_than_the_gallery(searcher):
    embedded = searcher.embed([text_query("a star")])
    (everything,) = searcher.search(embedded, 100)
    assert len(everything) == searcher.gallery.rows == 10
    threshold = everything[3].score
    (some,) = searcher.search(embedded, 100, threshold)
    assert some == everything[:4]
    assert searcher.search(embedded, 5, 2.0) == [[]]


def test_captions_for_a_photo(scene_run, scene_model, tmp_path):
    searcher = _searcher(scene_model, scene_run[1], tmp_path, "captions")
    photo = scene_run[1].builder.as_data_source("test")[2]["image"]
    (hits,) = searcher.search(searcher.embed([Query((Part(1, photo=photo),))]), 5)
    ids, _ = naive(searcher, unit(scene_model.embed_images([photo]))[0], 5)
    assert [hit.id for hit in hits] == ids
    assert all(len(hit.captions) == 1 for hit in hits)
    assert searcher.picture(0) is None


@pytest.mark.parametrize("content", ["images", "captions"])
def test_order_similarity_compares_images_with_captions(scene_run, tmp_path, content):
    config = scene_run[1].config.copy_and_resolve_references()
    config.loss.similarity = "order"
    config.model.absolute = True
    experiment = saved_runs.save(tmp_path / "run", config)
    model = load(tmp_path / "run")
    searcher = _searcher(model, experiment, tmp_path, content)
    photo = experiment.builder.as_data_source("test")[2]["image"]
    text, photo = Query((Part(1, "a star"),)), Query((Part(1, photo=photo),))
    fits, other = (text, photo) if content == "images" else (photo, text)
    embedded = searcher.embed([fits])
    (hits,) = searcher.search(embedded, 5)
    rows = searcher.gallery.embeddings_at(range(searcher.gallery.rows))
    order = SIMILARITIES["order"]
    scores = order(rows, embedded) if content == "images" else order(embedded, rows)
    expected = np.sort(np.asarray(scores).ravel())[::-1][:5]
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
    for refused in (other, Query((*fits.parts, *fits.parts)), Query((Part(1, row=0),))):
        with pytest.raises(InputError, match="order similarity only compares images"):
            searcher.embed([refused])


def test_truncated_queries_are_counted(searcher, caplog):
    long = text_query("a star " * 40)
    searcher.embed([long, text_query("a star")])
    assert not caplog.text
    searcher.embed([long, text_query("a star")], name="the queries")
    assert "the queries: 1 of 2 captions are truncated to 40 tokens" in caplog.text


def test_index_of_another_kind_is_refused(scene_run, scene_model, tmp_path):
    pytest.importorskip("faiss")
    gallery = _searcher(scene_model, scene_run[1], tmp_path).gallery
    queries = scene_model.embed_captions(["a star", "a box"])
    build_index.build(gallery, "ivf", hubness=None, queries=queries)
    searcher = Searcher(scene_model, gallery, index="ivf")
    assert len(searcher.search(queries, 3)[0]) == 3
    with pytest.raises(InputError, match="has an index of the kind ivf; set"):
        Searcher(scene_model, gallery, index="hnsw")


def test_unknown_words(searcher):
    query = Query((Part(1, "a red xylophone"), Part(-1, "qwerty")))
    assert searcher.unknown_words(query) == ["xylophone", "qwerty"]
    assert searcher.has_known_words(query)
    assert not searcher.has_known_words(text_query("qwerty"))


def test_truncated_text(searcher):
    longest = searcher.model.config.data.token_lengths[-1]
    words = ["star"] * (longest - 2)  # beside the tokens of the start and the end
    assert not searcher.is_truncated(text_query(" ".join(words)))
    too_long = Part(-1, " ".join([*words, "star"]))
    assert searcher.is_truncated(Query((Part(1, "a star"), too_long)))


def test_invalid_queries_are_reported(searcher):
    with pytest.raises(InputError, match="cancel each other out"):
        searcher.embed([Query((Part(1, "a star"), Part(-1, "a star")))])
    with pytest.raises(InputError, match="a photo: it is empty"):
        searcher.embed([Query((Part(1, photo=b""),))])
    with pytest.raises(InputError, match="the number of results is 0"):
        searcher.search(searcher.embed([text_query("a star")]), 0)
