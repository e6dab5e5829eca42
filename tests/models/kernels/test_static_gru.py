import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.gru import BidirectionalGRU
from vse_jax.models.kernels.scanned_gru import GRUWeights, scanned_states
from vse_jax.models.kernels.static_gru import static_states

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, TIME, DIM, HIDDEN = 7, 6, 3, 5
DIRECTIONS = {"both": (False, True), "forward": (False,), "backward": (True,)}


@functools.cache
def problem(number_of_directions):
    """Inputs, weights of each direction, lengths in any order, and cotangents."""
    rng = np.random.default_rng(11)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    shapes = [(DIM, 3 * HIDDEN), (3 * HIDDEN,), (HIDDEN, 3 * HIDDEN), (3 * HIDDEN,)]
    weights = tuple(
        GRUWeights(*[0.5 * normal(*shape) for shape in shapes])
        for _ in range(number_of_directions)
    )
    cotangents = tuple(normal(BATCH, TIME, HIDDEN) for _ in range(number_of_directions))
    lengths = np.array([3, 1, TIME, 2, TIME, 5, 1], np.int32)
    return normal(BATCH, TIME, DIM), weights, lengths, cotangents


def with_gradients(function, inputs, weights, lengths, cotangents):
    """Returns the states and the cotangents of the inputs and weights."""

    @jax.jit
    def both(inputs, weights):
        states, pullback = jax.vjp(
            lambda inputs, weights: function(inputs, weights, lengths), inputs, weights
        )
        return states, pullback(cotangents)

    return both(inputs, weights)


def plain(reverse):
    def states(inputs, weights, lengths):
        return tuple(
            scanned_states(inputs, of_direction, lengths, is_reverse)
            for of_direction, is_reverse in zip(weights, reverse, strict=True)
        )

    return states


def static(reverse, dtype="float32"):
    def states(inputs, weights, lengths):
        return static_states(inputs, weights, lengths, reverse, dtype)

    return states


@pytest.mark.parametrize("name", DIRECTIONS)
def test_states_and_gradients_equal_the_plain_form(name):
    reverse = DIRECTIONS[name]
    arguments = problem(len(reverse))
    actual = with_gradients(static(reverse), *arguments)
    expected = with_gradients(plain(reverse), *arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), actual, expected
    )


def test_padding_is_ignored():
    reverse = DIRECTIONS["both"]
    inputs, weights, lengths, cotangents = problem(2)
    exists = np.arange(TIME) < lengths[:, None]
    other = np.where(exists[..., None], inputs, 1e3).astype(np.float32)
    actual = with_gradients(static(reverse), other, weights, lengths, cotangents)
    expected = with_gradients(static(reverse), inputs, weights, lengths, cotangents)
    states, (to_inputs, to_weights) = actual
    for array in (*states, to_inputs):
        assert not np.asarray(array)[~exists].any()
    jax.tree.map(np.testing.assert_array_equal, states, expected[0])
    jax.tree.map(np.testing.assert_array_equal, to_weights, expected[1][1])


def test_bfloat16_is_close():
    reverse = DIRECTIONS["both"]
    exact = with_gradients(static(reverse), *problem(2))
    rounded = with_gradients(static(reverse, "bfloat16"), *problem(2))
    assert np.abs(rounded[0][0] - exact[0][0]).max() > 0  # bfloat16 was used
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.03 * np.abs(b).max())


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_run_both_directions_in_one_loop(platform):
    inputs, _, lengths, _ = problem(2)
    gru = BidirectionalGRU(HIDDEN)
    params = jax.jit(gru.init)(jax.random.key(0), inputs, -np.sort(-lengths))
    lowered = jax.jit(gru.apply).trace(params, inputs, lengths)
    assert lowered.lower(lowering_platforms=(platform,)).as_text().count("while(") == 1
