import jax
import numpy as np
import pytest

from vse_jax.models.kernels.prefix_gru import (
    joined_prefix_states,
    packed_prefix_states,
    scanned_prefix_states,
)
from vse_jax.models.kernels.scanned_gru import GRUWeights, scanned_states

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTH, DIM, HIDDEN = 7, 4, 5


def problem():
    rng = np.random.default_rng(4)
    shapes = [(DIM, 3 * HIDDEN), (3 * HIDDEN,), (HIDDEN, 3 * HIDDEN), (3 * HIDDEN,)]
    forward, backward = (
        GRUWeights(*[rng.normal(size=shape).astype(np.float32) for shape in shapes])
        for _ in range(2)
    )
    sequence = rng.normal(size=(LENGTH, DIM)).astype(np.float32)
    cotangent = rng.normal(size=(LENGTH, LENGTH, HIDDEN)).astype(np.float32)
    return sequence, (forward, backward), cotangent


def plain(sequence, weights):
    """Runs both directions over one prefix at a time."""
    rows = []
    for count in range(LENGTH, 0, -1):
        prefix, lengths = sequence[None, :count], np.array([count])
        forward, backward = (
            scanned_states(prefix, w, lengths, reverse)[0]
            for w, reverse in zip(weights, (False, True), strict=True)
        )
        states = (forward + backward) / 2
        rows.append(jax.numpy.pad(states, ((0, LENGTH - count), (0, 0))))
    return jax.numpy.stack(rows)


@pytest.mark.parametrize(
    "form", [joined_prefix_states, packed_prefix_states, scanned_prefix_states]
)
def test_states_and_gradients_equal_the_plain_form(form):
    sequence, weights, cotangent = problem()

    def both(function):
        @jax.jit
        def states_and_gradients(weights):
            states, pullback = jax.vjp(lambda w: function(sequence, w), weights)
            return states, pullback(cotangent)

        return states_and_gradients(weights)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        both(form),
        both(plain),
    )
