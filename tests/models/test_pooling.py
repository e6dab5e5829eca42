import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity
from tests.models.ranked_vectors import problem
from vse_jax.models import pooling
from vse_jax.models.kernels.ranked_sum import ranked_sum
from vse_jax.models.pooling import ElementwiseAttention, GeneralizedPooling

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


@pytest.fixture(scope="module")
def attention():
    """ESA with random parameters, and ragged vectors with their gradients' weights."""
    vectors, _, count = problem("ragged")
    vectors = np.asarray(vectors)
    rng = np.random.default_rng(5)
    dim = vectors.shape[2]
    kernel = rng.normal(size=(dim, dim)).astype(np.float32)
    bias = rng.normal(size=dim).astype(np.float32)
    weights = rng.normal(size=(len(vectors), dim)).astype(np.float32)
    return vectors, np.asarray(count), kernel, bias, weights


def esa(vectors, count, kernel):
    params = {"logits": {"kernel": kernel}}
    return ElementwiseAttention().apply({"params": params}, vectors, count)


def test_esa_is_the_published_sum(attention):
    """With a bias, which changes nothing; what follows the last vector counts not."""
    vectors, count, kernel, bias, _ = attention
    expected = np.zeros((len(vectors), vectors.shape[2]))
    for row, dim in np.ndindex(expected.shape):
        items = vectors[row, : count[row]].astype(np.float64)
        attention = np.exp([item @ kernel[:, dim] + bias[dim] for item in items])
        expected[row, dim] = (attention / attention.sum()) @ items[:, dim]
    found = esa(vectors, count, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    padding = np.arange(vectors.shape[1]) >= count[:, None]
    assert padding.any()
    other = np.where(padding[..., None], np.float32(100), vectors)
    np.testing.assert_array_equal(esa(other, count, kernel), found)


def test_esa_has_the_gradients_of_pytorch(attention):
    torch = pytest.importorskip("torch")
    vectors, count, kernel, bias, weights = attention
    inputs = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (vectors, kernel, bias)
    ]
    logits = torch.nn.functional.linear(inputs[0], inputs[1].T, inputs[2])
    exists = torch.arange(vectors.shape[1]) < torch.tensor(count)[:, None]
    logits = logits.masked_fill(~exists[..., None], -torch.inf)
    pooled = (logits.softmax(1) * inputs[0]).sum(1)
    (pooled * torch.tensor(weights)).sum().backward()
    gradients = jax.grad(
        lambda vectors, kernel: (esa(vectors, count, kernel) * weights).sum(),
        argnums=(0, 1),
    )(vectors, kernel)
    for found, expected in zip(gradients, inputs, strict=False):
        assert expected.grad.abs().max() > 0.1
        np.testing.assert_allclose(found, expected.grad.numpy(), atol=1e-5)
    assert inputs[2].grad.abs().max() < 1e-12  # the bias


def test_esa_of_equal_logits_is_the_mean(attention):
    vectors, count, kernel, *_ = attention
    found = esa(vectors, count, np.zeros_like(kernel))
    expected = pooling.mean_pooling(vectors, count)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_esa_multiplies_in_the_dtype_and_sums_in_float32(attention):
    vectors, count, *_ = attention
    pool = ElementwiseAttention(jnp.bfloat16)
    variables = pool.init(jax.random.key(0), vectors, count)
    program = jax.make_jaxpr(pool.apply)(variables, vectors, count)
    lines = str(program).splitlines()
    (product,) = [line for line in lines if "dot_general" in line]
    assert "bf16[" in product
    assert [x.dtype for x in program.out_avals] == [jnp.float32]


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
