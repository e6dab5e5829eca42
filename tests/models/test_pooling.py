import functools

import jax
import numpy as np
import pytest

from tests import parity
from tests.models.ranked_vectors import problem
from vse_jax.models import pooling
from vse_jax.models.kernels.ranked_sum import ranked_sum
from vse_jax.models.pooling import GeneralizedPooling

pytestmark = pytest.mark.usefixtures("quick_compilation")


def rank_weights(pool):
    apply = functools.partial(pool.apply, method=pool.rank_weights)
    return jax.jit(apply, static_argnums=1)


def test_weights_of_valid_ranks_sum_to_one():
    pool = GeneralizedPooling()
    init = jax.jit(
        functools.partial(pool.init, method=pool.rank_weights), static_argnums=1
    )
    variables = init(jax.random.key(1), 6)
    weights = np.asarray(rank_weights(pool)(variables, 6))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(weights[~np.tri(6, dtype=bool)], 0)
    assert (weights[np.tri(6, dtype=bool)] > 0).all()


def test_equal_weights_return_the_mean():
    vectors, _, count = problem("ragged")
    weights = np.tri(7, dtype=np.float32)[np.asarray(count) - 1]
    weights /= weights.sum(1, keepdims=True)
    expected = np.stack(
        [rows[:n].mean(0) for rows, n in zip(vectors, np.asarray(count), strict=True)]
    )
    np.testing.assert_allclose(ranked_sum(vectors, weights, count), expected, atol=1e-6)
    np.testing.assert_allclose(
        pooling.mean_pooling(vectors, count), expected, atol=1e-6
    )


def test_weight_on_the_first_rank_returns_the_maximum():
    vectors, _, count = problem("negative")
    weights = np.zeros((5, 7), np.float32)
    weights[:, 0] = 1
    expected = np.stack(
        [rows[:n].max(0) for rows, n in zip(vectors, np.asarray(count), strict=True)]
    )
    np.testing.assert_array_equal(ranked_sum(vectors, weights, count), expected)
    np.testing.assert_array_equal(pooling.max_pooling(vectors, count), expected)


def test_positions_equal_the_transformers_encoding():
    encoding = pooling.sinusoidal_positions(5, 8)
    assert encoding.shape == (5, 8)
    for position in range(5):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            pair = encoding[position, 2 * i : 2 * i + 2]
            np.testing.assert_allclose(pair, [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_parity_of_pooling_and_weights():
    golden = parity.load("gpo")
    hidden_dim, position_dim = (
        golden[f"param/gpool.gru.weight_{kind}_l0"].shape[1] for kind in ("hh", "ih")
    )
    pool = GeneralizedPooling(position_dim=position_dim, hidden_dim=hidden_dim)
    params = parity.variables(golden, "param")["params"]["text"]["pooling"]
    vectors, count = golden["in/features"], golden["in/lengths"]
    pooled = jax.jit(pool.apply)({"params": params}, vectors, count)
    np.testing.assert_allclose(pooled, golden["out/pooled"], atol=1e-5)
    weights = rank_weights(pool)({"params": params}, vectors.shape[1])
    expected = golden["out/weights"][..., 0]
    np.testing.assert_allclose(weights[count - 1], expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_pool_grid_equals_adaptive_average_pooling(size):
    torch = pytest.importorskip("torch")
    grid = np.random.default_rng(0).normal(size=(2, 7, 7, 4)).astype(np.float32)
    channels_first = torch.from_numpy(grid.transpose(0, 3, 1, 2))
    expected = torch.nn.functional.adaptive_avg_pool2d(channels_first, size)
    expected = expected.numpy().transpose(0, 2, 3, 1).reshape(2, size * size, 4)
    ours = pooling.pool_grid(grid.reshape(2, 49, 4), size)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
