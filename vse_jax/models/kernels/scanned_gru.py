"""The recurrence of a GRU as a scan over time steps, the form that others equal."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class GRUWeights(NamedTuple):
    """Parameters of one direction, float32; gates `r`, `z`, `n` are concatenated."""

    input_kernel: jax.Array  # [dim, 3 hidden]
    input_bias: jax.Array  # [3 hidden]
    recurrent_kernel: jax.Array  # [hidden, 3 hidden]
    recurrent_bias: jax.Array  # [3 hidden]


def split_gates(array: jax.Array, parts: int = 3) -> list[jax.Array]:
    """Splits `[..., parts * hidden]` into arrays `[..., hidden]` of one gate each."""
    return jnp.split(array, parts, axis=-1)


def new_state(
    input_gates: Sequence[jax.Array],
    recurrent_gates: Sequence[jax.Array],
    state: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Computes a step of the recurrence; see `scanned_states`.

    Args:
      input_gates: `a_r`, `a_z` and `a_n`, each `[batch, hidden]` float32.
      recurrent_gates: `b_r`, `b_z` and `b_n`, each `[batch, hidden]` float32.
      state: `[batch, hidden]` float32, that before the step.

    Returns:
      The state after the step, and `r`, `z`, `n` and `b_n`, from which a derivative
      can be computed. All are `[batch, hidden]` float32.
    """
    input_r, input_z, input_n = input_gates
    recurrent_r, recurrent_z, recurrent_n = recurrent_gates
    r = jax.nn.sigmoid(input_r + recurrent_r)
    z = jax.nn.sigmoid(input_z + recurrent_z)
    n = jnp.tanh(input_n + r * recurrent_n)
    return (1 - z) * n + z * state, (r, z, n, recurrent_n)


def product(a: jax.Array, b: jax.Array, dtype: str) -> jax.Array:
    """Returns `a @ b`, computed in `dtype` and summed in float32."""
    return jnp.dot(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


# An exported program contains it as a function of this name, see `exporting`.
@functools.partial(jax.jit, static_argnames="reverse")
def scanned_states(
    inputs: jax.Array, weights: GRUWeights, lengths: jax.Array, reverse: bool
) -> jax.Array:
    """Runs the recurrence from a state of zeros; the plain form of `packed_states`.

    With `a = x @ input_kernel + input_bias` and
    `b = h @ recurrent_kernel + recurrent_bias`, a step is

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
        recurrent = state @ weights.recurrent_kernel + weights.recurrent_bias
        new, _ = new_state(split_gates(projected), split_gates(recurrent), state)
        runs = (t < lengths)[:, None]
        return jnp.where(runs, new, state), jnp.where(runs, new, 0)

    projected = inputs @ weights.input_kernel + weights.input_bias
    start = jnp.zeros((batch, weights.recurrent_kernel.shape[0]))
    steps = (projected.swapaxes(0, 1), jnp.arange(time))
    return jax.lax.scan(step, start, steps, reverse=reverse)[1].swapaxes(0, 1)
