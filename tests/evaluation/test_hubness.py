import numpy as np
import pytest

from vse_jax.errors import InputError
from vse_jax.evaluation import hubness

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIONS = {"alpha": 0.75, "k": 128, "similarity": "cosine", "content": "images"}


def naive_bias(rows, bank, alpha, k, similarity, content):
    biases = []
    for row in rows.astype(np.float64):
        if similarity == "cosine":
            scores = [query @ row for query in bank]
        else:
            sign = 1 if content == "images" else -1
            scores = [
                -np.linalg.norm(np.maximum(0, sign * (query - row))) for query in bank
            ]
        biases.append(alpha * np.mean(sorted(scores)[-k:]))
    return np.array(biases)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("content", ["images", "captions"])
@pytest.mark.parametrize("similarity", ["cosine", "order"])
@pytest.mark.parametrize("k", [1, 5, 500])
def test_bias_is_that_of_a_loop(content, similarity, k):
    rows, bank = draw(70, 6), draw(40, 6, seed=1)
    bias = hubness.bias(
        rows, bank, alpha=0.5, k=k, similarity=similarity, content=content
    )
    assert bias.dtype == np.float32
    expected = naive_bias(rows, bank, 0.5, k, similarity, content)
    np.testing.assert_allclose(bias, expected, atol=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    rows, bank = draw(300, 6).astype(np.float16), draw(40, 6, seed=1)
    whole = hubness.bias(rows, bank, **OPTIONS)
    monkeypatch.setattr(hubness, "_SCORES_BYTES", 1)
    parts = hubness.bias(iter([rows[:7], rows[7:8], rows[8:]]), bank, **OPTIONS)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_large_banks_are_thinned(monkeypatch):
    monkeypatch.setattr(hubness, "MAX_BANK", 10)
    rows, bank = draw(20, 6), draw(35, 6, seed=1)
    taken = hubness.thinned(bank)
    assert len(taken) == 10
    np.testing.assert_array_equal(taken[0], bank[0])
    expected = naive_bias(rows, taken, 0.75, 10, "cosine", "images")
    bias = hubness.bias(rows, bank, **OPTIONS)
    np.testing.assert_allclose(bias, expected, atol=1e-5)
    assert hubness.digest_of(bank) == hubness.digest_of(taken)


def test_no_rows():
    assert hubness.bias(draw(0, 6), draw(4, 6), **OPTIONS).shape == (0,)


@pytest.mark.parametrize(
    ("bank", "options", "words"),
    [
        (0, {}, "has no queries"),
        (4, {"k": 0}, "alpha 0.75 and k 0"),
        (4, {"alpha": -1.0}, "alpha -1.0 and k 128"),
        (4, {"alpha": np.nan}, "alpha nan"),
    ],
)
def test_invalid_options(bank, options, words):
    with pytest.raises(InputError, match=words):
        hubness.bias(draw(3, 6), draw(bank, 6), **OPTIONS | options)
