import json
import sys

import numpy as np
import pytest

from tests.gallery.small_galleries import DIM, description, encode, source
from vse_jax.errors import InputError
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.rows import Record
from vse_jax.gallery.writer import GalleryWriter
from vse_jax.search import build_index, exact, faiss_files, hubness, index

pytest.importorskip("faiss")
pytestmark = pytest.mark.usefixtures("quick_compilation")

ROWS = 3000


def unit_vectors(number, seed):
    """Vectors in clusters, as embeddings of a trained model are."""
    centers = np.random.default_rng(0).standard_normal((30, DIM))
    rng = np.random.default_rng(seed)
    vectors = centers[rng.integers(0, 30, number)]
    vectors = vectors + 0.7 * rng.standard_normal((number, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES = unit_vectors(60, seed=2)


@pytest.fixture
def gallery(tmp_path):
    with GalleryWriter(tmp_path, description(dtype="float32")) as writer:
        writer.write(unit_vectors(ROWS, 1), [Record(str(i)) for i in range(ROWS)])
    return Gallery.open(tmp_path)


def build(gallery, kind="ivf", correction=None):
    return build_index.build(gallery, kind, hubness=correction, queries=QUERIES)


def recall(found, right):
    return np.mean([np.isin(*rows).mean() for rows in zip(right, found, strict=True)])


@pytest.mark.parametrize("kind", faiss_files.KINDS)
@pytest.mark.parametrize("files", [1, 3])
def test_index_finds_most_of_exact_search(gallery, monkeypatch, kind, files):
    monkeypatch.setattr(build_index, "FILE_BYTES", ROWS // files * 2 * 16)
    built = build(gallery, kind)
    assert len(built.files) == files
    found = index.load(gallery).search(QUERIES, 10)
    right = exact.search(QUERIES, gallery, 10)
    assert built.recall >= 0.95
    assert recall(found.rows, right.rows) == pytest.approx(built.recall)
    same = found.rows == right.rows
    np.testing.assert_allclose(found.scores[same], right.scores[same], atol=1e-6)
    rows = np.concatenate(list(gallery.blocks()))
    expected = np.take_along_axis(QUERIES @ rows.T, found.rows, 1)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", faiss_files.KINDS)
def test_index_holds_the_correction_of_hubness(gallery, kind, monkeypatch):
    monkeypatch.setattr(hubness, "ALPHA", 2.0)
    monkeypatch.setattr(hubness, "K", 20)
    correction = hubness.store(gallery, unit_vectors(200, 3))
    build(gallery, kind, correction)
    opened = index.load(gallery, correction)
    right = [
        exact.search(QUERIES, gallery, 10, bias=bias).rows
        for bias in (None, correction.bias)
    ]
    assert recall(right[0], right[1]) < 0.8  # the correction matters
    for corrected, best in enumerate(right):
        found = opened.search(QUERIES, 10, corrected=bool(corrected))
        assert recall(found.rows, best) > 0.9


def test_least_effort_is_chosen(gallery, monkeypatch):
    efforts = []
    for wanted in (0.1, 0.95, 1.0):
        monkeypatch.setattr(build_index, "WANTED_RECALL", wanted)
        built = build(gallery)
        efforts.append(built.effort)
    assert 1 == efforts[0] < efforts[1] < efforts[2]
    assert built.recall == 1
    assert len([p for p in gallery.folder.iterdir() if p.suffix == ".faiss"]) == 1


@pytest.mark.parametrize("kind", faiss_files.KINDS)
def test_queries_that_find_too_few_rows_are_searched_exactly(gallery, kind):
    build(gallery, kind)
    opened = index.load(gallery)
    found = opened.search(QUERIES[:3], ROWS + 1)
    right = exact.search(QUERIES[:3], gallery, ROWS)
    assert found.rows.shape == (3, ROWS)
    assert (np.sort(found.rows, axis=1) == np.arange(ROWS)).all()
    np.testing.assert_allclose(found.scores, right.scores, atol=1e-5)


def test_tiny_gallery(tmp_path):
    encode(tmp_path, source(3))
    gallery = Gallery.open(tmp_path)
    for kind in faiss_files.KINDS:
        assert build(gallery, kind).recall == 1
        found = index.load(gallery).search(QUERIES[:2], 5)
        right = exact.search(QUERIES[:2], gallery, 5)
        np.testing.assert_array_equal(found.rows, right.rows)


def test_remote_index(bucket, tmp_path):
    copies = str(tmp_path)
    with GalleryWriter(bucket, description(), copies=copies) as writer:
        writer.write(unit_vectors(50, 1), [Record(str(i)) for i in range(50)])
    gallery = Gallery.open(bucket, copies)
    build(gallery)
    found = index.load(gallery).search(QUERIES, 3)
    assert recall(found.rows, exact.search(QUERIES, gallery, 3).rows) > 0.9


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_gallery_without_index(gallery):
    assert "has no index; run --mode=encode" in refused(index.load, gallery)


def test_index_of_another_content_is_refused(gallery):
    build(gallery)
    with GalleryWriter(gallery.folder, gallery.manifest.description) as writer:
        writer.drop(["7"])
    message = refused(index.load, Gallery.open(gallery.folder))
    assert "index.json: was built before the gallery changed" in message
    assert "config.gallery.index=ivf" in message
    assert index.load(gallery)  # which is still open as it was


def test_index_of_another_correction_is_refused(gallery):
    first = hubness.store(gallery, unit_vectors(20, 3))
    build(gallery, "ivf", first)
    other = hubness.store(gallery, unit_vectors(20, 4))
    assert "the correction of hubness changed" in refused(index.load, gallery, other)
    assert index.load(gallery, first)


def test_index_without_correction_does_not_correct(gallery):
    correction = hubness.store(gallery, unit_vectors(20, 3))
    build(gallery)
    opened = index.load(gallery, correction)
    message = refused(opened.search, QUERIES, 3, corrected=True)
    assert "was built without the correction of hubness" in message


def test_order_similarity_has_no_index(tmp_path):
    encode(
        tmp_path, {}, writer=GalleryWriter(tmp_path, description(similarity="order"))
    )
    message = refused(build, Gallery.open(tmp_path))
    assert "'order', which is not an inner product" in message


def test_empty_gallery_and_unknown_kind(tmp_path):
    encode(tmp_path, {})
    gallery = Gallery.open(tmp_path)
    assert "is empty" in refused(build, gallery)
    assert "expected ivf or hnsw" in refused(build, gallery, "lsh")


def test_faiss_is_named_if_it_is_not_installed(gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert refused(build, gallery).endswith("pip install faiss-cpu")


@pytest.mark.parametrize("damage", ["json", "short", "content", "bit"])
def test_damaged_index(gallery, damage):
    file = build(gallery).files[0]
    path, manifest = gallery.folder / file.name, gallery.folder / "index.json"
    if damage == "json":
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(content | {"kind": "lsh"}))
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "bit":  # faiss reads it, and finds other rows
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(b"x" * file.bytes)
    assert "is damaged" in refused(index.load, gallery)
