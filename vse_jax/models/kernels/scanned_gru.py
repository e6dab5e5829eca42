"""The recurrence of a GRU as a scan over time steps, the form that others equal."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class GRUWeights(NamedTuple):
    """Parameters of one direction, float32; gates `r`, `z`, `n` are concatenated."""

    input_kernel: jax.Array  # [dim, 3 hidden]
    input_bias: jax.Array  # [3 hidden]
    kernel: jax.Array  # [hidden, 3 hidden]
    bias: jax.Array  # [3 hidden]


# An exported program contains it as a function of this name, see `exporting`.
@functools.partial(jax.jit, static_argnames="reverse")
def scanned_states(
    inputs: jax.Array, weights: GRUWeights, lengths: jax.Array, reverse: bool
) -> jax.Array:
    """Runs the recurrence from a state of zeros; the plain form of `packed_states`.

    With `a = x @ input_kernel + input_bias` and `b = h @ kernel + bias`, a step is

        r = sigmoid(a_r + b_r)
        z = sigmoid(a_z + b_z)
        n = tanh(a_n + r * b_n)
        h' = (1 - z) * n + z * h

    Args:
      inputs: `[batch, time, dim]` float32.
      weights: parameters.
      lengths: `[batch]` int32, in any order.
      reverse: whether to run from each sequence's last step to its first.

    Returns:
      States `[batch, time, hidden]` float32, zero beyond each sequence's end.
    """
    batch, time, _ = inputs.shape

    def step(state, x):
        projected, t = x
        recurrent = state @ weights.kernel + weights.bias
        (input_r, input_z, input_n), (r, z, n) = (
            jnp.split(gates, 3, axis=-1) for gates in (projected, recurrent)
        )
        r, z = jax.nn.sigmoid(input_r + r), jax.nn.sigmoid(input_z + z)
        new = (1 - z) * jnp.tanh(input_n + r * n) + z * state
        runs = (t < lengths)[:, None]
        return jnp.where(runs, new, state), jnp.where(runs, new, 0)

    projected = inputs @ weights.input_kernel + weights.input_bias
    start = jnp.zeros((batch, weights.kernel.shape[0]))
    steps = (projected.swapaxes(0, 1), jnp.arange(time))
    return jax.lax.scan(step, start, steps, reverse=reverse)[1].swapaxes(0, 1)
