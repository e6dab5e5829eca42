import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.gru import GRU, BidirectionalGRU
from vse_jax.models.kernels import packed_gru
from vse_jax.models.kernels.packed_gru import ROW_BLOCK, packed_states
from vse_jax.models.kernels.scanned_gru import GRUWeights, scanned_states

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIM, HIDDEN = 3, 5

# Fewer sequences than a row block, whole row blocks, and partial ones; descending.
LENGTHS = {
    "ragged": [6, 6, 5, 3, 2, 1, 1],
    "single_steps": [1] * 7,
    "all_equal": [6] * 7,
    "shorter_than_padding": [4, 4, 3, 3, 3, 3, 1],
    "whole_blocks": sorted([1, 2, 3, 4, 5, 6, 6, 6] * (ROW_BLOCK // 4), reverse=True),
    "not_whole_blocks": [6] * 3 + [4] * ROW_BLOCK + [2] * 3,
}
TIME = 6


def naive_gru(params, inputs, lengths, reverse):
    """Applies PyTorch's equations to one sequence and one step at a time."""
    states, lasts = [], []
    for sequence, length in zip(inputs, lengths, strict=True):
        state = jnp.zeros(HIDDEN)
        of_sequence = [jnp.zeros(HIDDEN)] * len(sequence)
        for t in range(length)[:: -1 if reverse else 1]:
            projected = sequence[t] @ params["input_kernel"] + params["input_bias"]
            recurrent = state @ params["recurrent_kernel"] + params["recurrent_bias"]
            ir, iz, in_ = jnp.split(projected, 3)
            hr, hz, hn = jnp.split(recurrent, 3)
            r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
            n = jnp.tanh(in_ + r * hn)
            state = (1 - z) * n + z * state
            of_sequence[t] = state
        states.append(jnp.stack(of_sequence))
        lasts.append(state)
    return jnp.stack(states), jnp.stack(lasts)


def batched_naive_gru(params, inputs, lengths, reverse):
    """Like `naive_gru`, for all sequences at once, which compiles faster."""
    states = []
    state = jnp.zeros((len(inputs), HIDDEN))
    steps = range(inputs.shape[1])
    for t in steps[::-1] if reverse else steps:
        projected = inputs[:, t] @ params["input_kernel"] + params["input_bias"]
        recurrent = state @ params["recurrent_kernel"] + params["recurrent_bias"]
        ir, iz, in_ = jnp.split(projected, 3, axis=-1)
        hr, hz, hn = jnp.split(recurrent, 3, axis=-1)
        r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
        n = jnp.tanh(in_ + r * hn)
        runs = (t < lengths)[:, None]
        state = jnp.where(runs, (1 - z) * n + z * state, state)
        states.append(jnp.where(runs, state, 0))
    return jnp.stack(states[:: -1 if reverse else 1], 1), state


@functools.cache
def problem(kind):
    rng = np.random.default_rng(7)
    lengths = np.array(LENGTHS[kind], np.int32)
    inputs = rng.normal(size=(len(lengths), TIME, DIM)).astype(np.float32)
    params = {
        "input_kernel": rng.normal(size=(DIM, 3 * HIDDEN)) * 0.5,
        "input_bias": rng.normal(size=3 * HIDDEN) * 0.5,
        "recurrent_kernel": rng.normal(size=(HIDDEN, 3 * HIDDEN)) * 0.5,
        "recurrent_bias": rng.normal(size=3 * HIDDEN) * 0.5,
    }
    params = {name: value.astype(np.float32) for name, value in params.items()}
    return params, inputs, lengths


@functools.cache
def compiled(reverse, dtype="float32"):
    """Returns a compiled function of our states, last states and gradients."""
    gru = GRU(HIDDEN, reverse=reverse, dtype=jnp.dtype(dtype))
    return with_gradients(
        lambda params, inputs, lengths: gru.apply({"params": params}, inputs, lengths)
    )


@functools.cache
def compiled_naive(reverse):
    """Like `compiled`, for the reference."""
    return with_gradients(functools.partial(batched_naive_gru, reverse=reverse))


def with_gradients(function):
    """Adds the gradients of a weighted sum of the outputs; weights are random."""

    def total(params, inputs, lengths):
        rng = np.random.default_rng(3)
        states, last = function(params, inputs, lengths)
        weighted = (states * rng.normal(size=states.shape)).sum()
        return weighted + (last * rng.normal(size=last.shape)).sum(), (states, last)

    gradient = jax.grad(total, argnums=(0, 1), has_aux=True)

    @jax.jit
    def values_and_gradients(params, inputs, lengths):
        (to_params, to_inputs), (states, last) = gradient(params, inputs, lengths)
        return {"states": states, "last": last, "to_inputs": to_inputs} | to_params

    return values_and_gradients


def assert_close(actual, expected, atol=2e-5):
    for name in expected:
        np.testing.assert_allclose(
            actual[name], expected[name], atol=atol, rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("reverse", [False, True])
def test_batched_reference_equals_single_sequences(reverse):
    params, inputs, lengths = problem("ragged")
    states, last = naive_gru(params, inputs, lengths, reverse)
    batched = compiled_naive(reverse)(params, inputs, lengths)
    np.testing.assert_allclose(batched["states"], states, atol=1e-6)
    np.testing.assert_allclose(batched["last"], last, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", LENGTHS)
def test_states_and_gradients_follow_pytorchs_equations(kind, reverse):
    actual = compiled(reverse)(*problem(kind))
    expected = compiled_naive(reverse)(*problem(kind))
    assert_close(actual, expected)
    for name in ("states", "last"):
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_ignored(reverse):
    params, inputs, lengths = problem("ragged")
    exists = np.arange(TIME) < lengths[:, None]
    other = np.where(exists[..., None], inputs, 1e3).astype(np.float32)
    actual = compiled(reverse)(params, other, lengths)
    expected = compiled(reverse)(params, inputs, lengths)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    assert not np.asarray(actual["states"])[~exists].any()
    assert not np.asarray(actual["to_inputs"])[~exists].any()


@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16_is_close(reverse):
    exact = compiled(reverse)(*problem("ragged"))
    rounded = compiled(reverse, "bfloat16")(*problem("ragged"))
    assert rounded["states"].dtype == rounded["last"].dtype == jnp.float32
    assert np.abs(rounded["states"] - exact["states"]).max() > 0  # bfloat16 was used
    for name, value in exact.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(
            rounded[name], value, atol=0.03 * scale, err_msg=name
        )


def test_both_directions_are_averaged():
    forward, inputs, lengths = problem("ragged")
    backward = {name: -0.5 * value for name, value in forward.items()}
    params = {"forward": forward, "backward": backward}
    states = jax.jit(BidirectionalGRU(HIDDEN).apply)(
        {"params": params}, inputs, lengths
    )
    ahead = compiled_naive(False)(forward, inputs, lengths)["states"]
    back = compiled_naive(True)(backward, inputs, lengths)["states"]
    np.testing.assert_allclose(states, (ahead + back) / 2, atol=1e-6)


def test_initial_values_match_pytorch():
    params = jax.jit(GRU(16).init)(
        jax.random.key(0), jnp.zeros((2, 3, 4)), jnp.array([3, 1], jnp.int32)
    )["params"]
    for name, value in params.items():
        assert 0.2 < np.abs(value).max() <= 0.25, name  # uniform within 16 ** -0.5


@pytest.mark.parametrize("kind", ["ragged", "all_equal", "shorter_than_padding"])
@pytest.mark.parametrize("smallest_hidden", [1, HIDDEN + 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_states_equal_the_plain_form(
    monkeypatch, reverse, smallest_hidden, kind
):
    """Compares states and gradients; the plain form accepts sequences in any order."""
    # Whether products take only the rows that are used, as with large states.
    monkeypatch.setattr(packed_gru, "SMALLEST_HIDDEN", smallest_hidden)
    params, inputs, lengths = problem(kind)
    weights = GRUWeights(
        params["input_kernel"],
        params["input_bias"],
        params["recurrent_kernel"],
        params["recurrent_bias"],
    )
    direction = np.random.default_rng(5).normal(size=(len(inputs), TIME, HIDDEN))

    def total(function):
        return lambda *args: (function(*args) * direction).sum()

    def packed(inputs, weights):
        return packed_states(inputs, weights, lengths, reverse, "float32")

    def plain(inputs, weights):
        return scanned_states(inputs, weights, lengths, reverse)

    for function in (lambda f: f, lambda f: jax.grad(total(f), argnums=(0, 1))):
        actual = jax.jit(function(packed))(inputs, weights)
        expected = jax.jit(function(plain))(inputs, weights)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5),
            actual,
            expected,
        )
    shuffled = np.random.default_rng(6).permutation(len(inputs))
    np.testing.assert_allclose(
        scanned_states(inputs[shuffled], weights, lengths[shuffled], reverse),
        plain(inputs, weights)[shuffled],
        atol=1e-6,
    )
