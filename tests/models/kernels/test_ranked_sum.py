import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.ranked_vectors import problem
from vse_jax.models.kernels import ranked_sum as kernel
from vse_jax.models.kernels.ranked_sum import ranked_sum, sorted_sum

pytestmark = pytest.mark.usefixtures("quick_compilation")


KINDS = ("ragged", "ties", "negative", "single", "whole", "edge", "long")


@functools.cache
def jitted(function):
    return jax.jit(function)


@functools.cache
def gradient_of(function):
    def total(vectors, weights, count, direction):
        return (function(vectors, weights, count) * direction).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_ranked_sum_equals_sorted_sum(kind):
    arguments = problem(kind)
    np.testing.assert_allclose(
        jitted(ranked_sum)(*arguments), jitted(sorted_sum)(*arguments), atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_ranked_sum_equals_sorted_sum(kind):
    arguments = problem(kind)
    batch, _, dim = arguments[0].shape
    direction = np.random.default_rng(1).normal(size=(batch, dim))
    actual = gradient_of(ranked_sum)(*arguments, direction)
    expected = gradient_of(sorted_sum)(*arguments, direction)
    # Both give the lower rank to the first of equal values.
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
    # Weights of ranks beyond the count have zero gradients.
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-5)


def test_padding_is_ignored():
    vectors, weights, count = problem("ragged")
    exists = np.arange(vectors.shape[1]) < np.asarray(count)[:, None]
    assert not exists.all()
    for filling in (1e3, -1e3):
        other = np.where(exists[..., None], vectors, np.float32(filling))
        np.testing.assert_array_equal(
            ranked_sum(other, weights, count), ranked_sum(vectors, weights, count)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_sorted_sum_equals_numpy(kind):
    vectors, weights, count = problem(kind)
    expected = np.zeros((len(vectors), vectors.shape[2]))
    for row, number in enumerate(np.asarray(count)):
        descending = -np.sort(-vectors[row, :number], axis=0)
        expected[row] = weights[row, :number] @ descending
    np.testing.assert_allclose(
        jitted(sorted_sum)(vectors, weights, count), expected, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_forms_of_ranking_are_equal(kind):
    """Equal bit for bit; also where values beyond a row's count are all equal."""
    vectors, _, count = problem(kind)
    exists = (jnp.arange(vectors.shape[1]) < count[:, None])[..., None]
    compared, values = (jnp.where(exists, vectors, x) for x in (-jnp.inf, 0))
    rank, ranked = kernel._rank_at_once(compared, values)
    expected = kernel._descending_rank(compared)
    assert rank.dtype == expected.dtype
    np.testing.assert_array_equal(rank, expected)
    np.testing.assert_array_equal(ranked, kernel._put_by_rank(values, expected))


@pytest.mark.parametrize(
    ("platform", "batch", "at_once"),
    [("tpu", 16, True), ("cuda", 16, True), ("tpu", 128, False), ("cpu", 16, False)],
)
def test_accelerators_compare_all_pairs_of_small_batches(platform, batch, at_once):
    vectors = jax.ShapeDtypeStruct((batch, 36, 1024), jnp.float32)
    weights = jax.ShapeDtypeStruct((batch, 36), jnp.float32)
    count = jax.ShapeDtypeStruct((batch,), jnp.int32)
    lowered = jax.jit(ranked_sum).trace(vectors, weights, count)
    text = lowered.lower(lowering_platforms=(platform,)).as_text()
    assert (f"tensor<{batch}x36x36x1024xi1>" in text) == at_once
