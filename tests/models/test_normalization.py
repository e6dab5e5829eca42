import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax import parallel
from vse_jax.models.normalization import MaskedBatchNorm, l2_normalize

MOMENTUM, EPSILON = 0.1, 1e-5


@pytest.fixture
def problem():
    """Vectors of 16 samples with very different counts, one of them 0."""
    rng = np.random.default_rng(0)
    count = np.array([5, 1, 2, 0, 5, 5, 3, 1, 1, 1, 1, 1, 4, 4, 2, 5])
    exists = np.arange(5) < count[:, None]
    vectors = rng.normal(2, 3, (16, 5, 6))
    vectors *= 1 + np.arange(16)[:, None, None]  # statistics differ between devices
    vectors[~exists] = 1e4
    variables = {
        "params": {"scale": rng.normal(size=6), "bias": rng.normal(size=6)},
        "batch_stats": {
            "mean": rng.normal(size=6),
            "variance": rng.uniform(1, 2, size=6),
        },
    }
    return vectors.astype(np.float32), exists, jax.tree.map(np.float32, variables)


def apply(
    variables, vectors, exists, *, train, gather_over_devices=lambda array: array
):
    norm = MaskedBatchNorm(train, gather_over_devices)
    return norm.apply(variables, vectors, exists, mutable=["batch_stats"])


def mapped_over(number, variables):
    """Returns the normalization of a batch that is split over devices."""
    of_device = functools.partial(
        apply, variables, train=True, gather_over_devices=parallel.gather
    )
    return jax.pmap(of_device, axis_name=parallel.AXIS, devices=jax.devices()[:number])


def on_devices(number, variables, vectors, exists):
    """Splits the batch over devices; returns all outputs and statistics."""
    mapped = mapped_over(number, variables)
    parts = [x.reshape(number, -1, *x.shape[1:]) for x in (vectors, exists)]
    outputs, updated = mapped(*parts)
    return np.asarray(outputs).reshape(vectors.shape), updated["batch_stats"]


def test_statistics_exclude_padding(problem):
    vectors, exists, variables = problem
    outputs, updated = apply(variables, vectors, exists, train=True)
    some = vectors[exists].astype(np.float64)
    params, stats = variables["params"], variables["batch_stats"]
    expected = (some - some.mean(0)) / np.sqrt(some.var(0) + EPSILON)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(outputs[exists], expected, atol=1e-5)

    batch = {"mean": some.mean(0), "variance": some.var(0, ddof=1)}
    for name, value in batch.items():
        running = (1 - MOMENTUM) * stats[name] + MOMENTUM * value
        np.testing.assert_allclose(updated["batch_stats"][name], running, rtol=1e-5)


def test_evaluation_uses_the_running_statistics(problem):
    vectors, exists, variables = problem
    outputs, updated = apply(variables, vectors, exists, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    expected = (vectors - stats["mean"]) / np.sqrt(stats["variance"] + EPSILON)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=1e-5)
    for name, value in stats.items():
        np.testing.assert_array_equal(updated["batch_stats"][name], value)


def test_eight_devices_normalize_like_one(problem):
    vectors, exists, variables = problem
    one, one_stats = on_devices(1, variables, vectors, exists)
    eight, eight_stats = on_devices(8, variables, vectors, exists)
    np.testing.assert_allclose(eight[exists], one[exists], atol=1e-5)
    for name in one_stats:
        for device in range(8):
            np.testing.assert_allclose(
                eight_stats[name][device], one_stats[name][0], rtol=1e-5
            )


def test_eight_devices_equal_a_float64_reference_far_from_zero(problem):
    """A sum of squares would lose all digits of such a variance."""
    vectors, exists, variables = problem
    vectors = (vectors + 3e4).astype(np.float32)
    _, updated = on_devices(8, variables, vectors, exists)
    some = vectors[exists].astype(np.float64)
    batch = {"mean": some.mean(0), "variance": some.var(0, ddof=1)}
    for name, value in batch.items():
        running = (1 - MOMENTUM) * variables["batch_stats"][name] + MOMENTUM * value
        np.testing.assert_allclose(updated[name][0], running, rtol=1e-4)


def test_gradients_of_eight_devices_equal_those_of_one(problem):
    vectors, exists, variables = problem
    direction = np.random.default_rng(1).normal(size=vectors.shape)
    direction = np.where(exists[..., None], direction, 0).astype(np.float32)

    def gradients(number):
        def of_device(vectors, exists, direction):
            def total(params, vectors):
                outputs, _ = apply(
                    {**variables, "params": params},
                    vectors,
                    exists,
                    train=True,
                    gather_over_devices=parallel.gather,
                )
                return (outputs * direction).sum()

            to_params, to_vectors = jax.grad(total, (0, 1))(
                variables["params"], vectors
            )
            return parallel.sum_over_devices(to_params), to_vectors

        mapped = jax.pmap(
            of_device, axis_name=parallel.AXIS, devices=jax.devices()[:number]
        )
        parts = [
            x.reshape(number, -1, *x.shape[1:]) for x in (vectors, exists, direction)
        ]
        to_params, to_vectors = mapped(*parts)
        first = {name: x[0] for name, x in to_params.items()}
        return first, np.asarray(to_vectors).reshape(vectors.shape)[exists]

    (eight, eight_vectors), (one, one_vectors) = map(gradients, (8, 1))
    np.testing.assert_allclose(eight_vectors, one_vectors, atol=1e-6)
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-5, atol=1e-5)


def test_one_collective_gathers_the_statistics(problem):
    vectors, exists, variables = problem
    mapped = mapped_over(8, variables)
    parts = [x.reshape(8, -1, *x.shape[1:]) for x in (vectors, exists)]
    lowered = mapped.lower(*parts).as_text()
    assert lowered.count("stablehlo.all_gather") == 1
    assert "all_reduce" not in lowered


def test_initialization_does_not_update_the_statistics():
    variables = MaskedBatchNorm(True, lambda tree: tree).init(
        jax.random.key(0), jnp.full((4, 3), 7.0), jnp.ones(4, bool)
    )
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["variance"], 1)


def test_l2_normalization():
    vectors = np.array([[3, 4], [0, 0], [-1e-3, 0]], np.float32)
    np.testing.assert_allclose(
        l2_normalize(vectors), [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6
    )
    gradient = jax.grad(lambda x: l2_normalize(x).sum())(vectors)
    assert np.isfinite(gradient).all()
    half = l2_normalize(jnp.asarray([[3.0, 4.0]], jnp.bfloat16))
    assert half.dtype == jnp.float32
