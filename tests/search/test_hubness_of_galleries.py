import numpy as np
import pytest

from tests import damaged_npz
from tests.gallery.small_galleries import DIM, encode, source
from vse_jax.errors import InputError
from vse_jax.evaluation.hubness import bias
from vse_jax.gallery.gallery import Gallery
from vse_jax.search import exact, hubness

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def gallery(tmp_path):
    encode(tmp_path, source(33))
    return Gallery.open(tmp_path)


def bank(number=20, seed=3):
    return np.random.default_rng(seed).standard_normal((number, DIM))


def test_stored_correction_is_that_of_the_rows(gallery):
    queries = bank(200)
    stored = hubness.store(gallery, queries)
    rows = np.concatenate(list(gallery.blocks()))
    options = {"alpha": 0.75, "similarity": "cosine", "content": "images"}
    expected = bias(rows, queries, k=128, **options)
    np.testing.assert_allclose(stored.bias, expected)
    assert np.abs(bias(rows, queries, k=200, **options) - expected).max() > 0.1
    loaded = hubness.load(Gallery.open(gallery.folder))
    np.testing.assert_array_equal(loaded.bias, stored.bias)
    assert loaded[1:] == stored[1:]


def test_correction_demotes_a_hub(tmp_path, monkeypatch):
    """A row that is near to all queries is no longer found first by each of them."""
    rows = source(20)
    queries = bank(30) + 2.0
    hub = queries.mean(0).astype(np.float16)
    rows["photo 7"] = hub * 3, rows["photo 7"][1]
    encode(tmp_path, rows)
    gallery = Gallery.open(tmp_path)
    monkeypatch.setattr(hubness, "ALPHA", 1.0)
    correction = hubness.store(gallery, queries)
    plain = exact.search(queries, gallery, 1).rows
    corrected = exact.search(queries, gallery, 1, bias=correction.bias).rows
    assert (plain == 7).all()
    assert (corrected == 7).mean() < 0.5


def test_same_correction_is_computed_once(gallery, monkeypatch):
    hubness.store(gallery, bank())
    monkeypatch.setattr(hubness, "bias", None)
    hubness.store(gallery, bank())
    with pytest.raises(TypeError):
        hubness.store(gallery, bank(seed=4))


def refused(gallery):
    with pytest.raises(InputError) as error:
        hubness.load(gallery)
    assert "\n" not in str(error.value)
    assert "config.gallery.hubness=True" in str(error.value)
    return str(error.value)


def test_missing_correction(gallery):
    assert "has no correction of hubness" in refused(gallery)


def test_correction_of_another_content_is_refused(gallery):
    hubness.store(gallery, bank())
    encode(gallery.folder, source(34))
    changed = Gallery.open(gallery.folder)
    assert "before the gallery changed" in refused(changed)
    hubness.store(changed, bank())
    assert len(hubness.load(changed).bias) == 34


@pytest.mark.parametrize(
    "damage",
    [
        lambda npz: b"",
        lambda npz: b"x" * 100,
        lambda npz: npz[:-30],
        *damaged_npz.WAYS,
    ],
)
def test_damaged_correction(gallery, damage):
    hubness.store(gallery, bank())
    path = gallery.folder / "hubness.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert "is damaged; delete this file" in refused(gallery)
