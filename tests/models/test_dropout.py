import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.dropout import Dropout

RATE, ROWS = 0.3, 64
KEY = jax.random.key(1)


def dropped(vectors, numbers, key=KEY, rate=RATE):
    dropout = Dropout(rate)
    return np.asarray(dropout.apply({}, vectors, numbers, rngs={"dropout": key}))


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(ROWS, 20, 30)).astype(np.float32)


def test_numbers_are_dropped_at_the_rate_and_others_scaled(vectors):
    found = dropped(vectors, jnp.arange(ROWS))
    lost = found == 0
    # 38,400 draws: five standard deviations.
    deviation = 5 * (RATE * (1 - RATE) / vectors.size) ** 0.5
    assert abs(lost.mean() - RATE) < deviation
    np.testing.assert_allclose(
        found[~lost], vectors[~lost] / np.float32(1 - RATE), rtol=1e-6
    )
    # Each row, place and dimension has its own choice.
    for axes in ((1, 2), (0, 2), (0, 1)):
        shares = lost.mean(axes)
        few = lost.size // len(shares)
        assert abs(shares - RATE).max() < 5 * (RATE * (1 - RATE) / few) ** 0.5
        assert shares.std() > 0


def test_choice_is_that_of_the_row_wherever_it_is(vectors):
    whole = dropped(vectors, jnp.arange(ROWS))
    some = np.array([41, 3, 17])
    np.testing.assert_array_equal(dropped(vectors[some], some), whole[some])
    ones = np.ones_like(vectors)
    keys = KEY, jax.random.key(2)
    again, other_key = (dropped(ones, jnp.arange(ROWS), key) for key in keys)
    shifted = dropped(ones, 1 + jnp.arange(ROWS))
    np.testing.assert_array_equal(again[1:], shifted[:-1])
    for other in (other_key, dropped(ones, ROWS + jnp.arange(ROWS))):
        differ = ((again == 0) != (other == 0)).mean()
        assert differ == pytest.approx(2 * RATE * (1 - RATE), abs=0.02)


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero(vectors):
    for found in (
        Dropout(RATE).apply({}, vectors, None),
        dropped(vectors, None, rate=0.0),
    ):
        np.testing.assert_array_equal(found, vectors)


def test_two_modules_choose_independently():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, rows, numbers):
            first = Dropout(RATE, name="first")(rows, numbers)
            return first, Dropout(RATE, name="second")(rows, numbers)

    ones = jnp.ones((ROWS, 600))
    pair = Pair().apply({}, ones, jnp.arange(ROWS), rngs={"dropout": KEY})
    first, second = (np.asarray(x) == 0 for x in pair)
    assert (first & second).mean() == pytest.approx(RATE**2, abs=0.01)
