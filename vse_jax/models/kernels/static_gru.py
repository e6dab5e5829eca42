"""The recurrence of a GRU as one loop over all time steps, for accelerators.

`static_states` equals `scanned_states`. It computes padding: on an accelerator a
product takes as long with a few rows less, and a choice between several products takes
longer. It differs from the scan in four ways:

- All directions run in the same loop, each from its own end of the time axis.
- The product with the inputs is one product over all time steps, before the loop.
- The loop has no masks. Beyond a sequence's end the projected inputs keep the state.
- The derivative is written by hand. The gradients of the kernels are large products
  after the loop backwards instead of sums that it carries.

For 16 captions of 24 tokens on a TPU v5e, in bfloat16 with 1,024 dimensions, the
compiler estimates 0.44 ms for the loops of both directions with their gradients, 0.72
ms with one step per iteration, and 2.5 ms for those of the packed form.
"""

import functools

import jax
import jax.numpy as jnp

from vse_jax.models.kernels.scanned_gru import (
    GRUWeights,
    new_state,
    product,
    split_gates,
)

# The update gate's input beyond the end of a sequence. Its sigmoid is exactly 1, so the
# state stays as it is and no gradient reaches the gates.
_KEEP_STATE = 1e4
# Steps between which the compiler can overlap reads, products and writes.
_STEPS_PER_ITERATION = 4


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def static_states(
    inputs: jax.Array,
    weights: tuple[GRUWeights, ...],
    lengths: jax.Array,
    reverse: tuple[bool, ...],
    dtype: str,
) -> tuple[jax.Array, ...]:
    """Runs the recurrence in one or several directions; see `scanned_states`.

    Args:
      inputs: `[batch, time, dim]` float32.
      weights: parameters of each direction, float32, all of the same shapes.
      lengths: `[batch]` int32, in any order.
      reverse: for each direction, whether to run from each sequence's last step to its
        first.
      dtype: of the products; the state itself is float32.

    Returns:
      For each direction, states `[batch, time, hidden]` float32, zero beyond each
      sequence's end.
    """
    return _forward(inputs, weights, lengths, reverse, dtype)[0]


def _forward(inputs, weights, lengths, reverse, dtype):
    batch, time, dim = inputs.shape
    hidden = len(weights[0].recurrent_kernel)
    steps = inputs.swapaxes(0, 1).reshape(time * batch, dim).astype(dtype)
    exists = _exists(lengths, time)

    def step(t, is_reverse, direction, projected, kernel, bias):
        state, states, gates = direction
        recurrent_gates = split_gates(product(state, kernel, dtype) + bias)
        state, values = new_state(
            split_gates(_read(projected, t)), recurrent_gates, state
        )
        states = _write(states, state, t if is_reverse else t + 1)
        return state, states, _write_all(gates, values, t)

    def start():
        # One step more than there are: the state before the first.
        states = jnp.zeros((time + 1, batch, hidden))
        return states[0], states, _empty((time, batch, hidden), jnp.float32)

    constants = [
        (
            _project(steps, exists, w, dtype),
            w.recurrent_kernel.astype(dtype),
            w.recurrent_bias,
        )
        for w in weights
    ]
    final = _run(step, time, reverse, [start() for _ in weights], constants)
    outputs = tuple(
        jnp.where(exists, _after(states, r), 0).swapaxes(0, 1)
        for (_, states, _), r in zip(final, reverse, strict=True)
    )
    saved = [(states, gates) for _, states, gates in final]
    return outputs, (steps, weights, exists, saved)


def _backward(reverse, dtype, residuals, cotangents):
    steps, weights, exists, saved = residuals
    time, batch, _ = exists.shape
    hidden = len(weights[0].recurrent_kernel)

    def step(t, _, direction, cotangents, previous, gates, kernels):
        to_state, to_gates = direction
        cotangent = to_state + _read(cotangents, t)
        r, z, n, recurrent_n = (_read(gate, t) for gate in gates)
        to_n = cotangent * (1 - z) * (1 - n * n)
        to_z = cotangent * (_read(previous, t) - n) * z * (1 - z)
        to_r = to_n * recurrent_n * r * (1 - r)
        to_recurrent = (to_r, to_z, to_n * r)
        to_previous = cotangent * z
        # A product per gate takes less time than a concatenation of their cotangents.
        for value, kernel in zip(to_recurrent, kernels, strict=True):
            to_previous += product(value, kernel, dtype)
        return to_previous, _write_all(to_gates, (to_n, *to_recurrent), t)

    def start():
        to_gates = _empty((time, batch, hidden), jnp.dtype(dtype))
        return jnp.zeros((batch, hidden)), to_gates

    previous = [
        _before(states, r) for (states, _), r in zip(saved, reverse, strict=True)
    ]
    constants = [
        (
            jnp.where(exists, cotangent.swapaxes(0, 1), 0),
            before,
            gates,
            [kernel.T for kernel in split_gates(w.recurrent_kernel.astype(dtype))],
        )
        for cotangent, before, (_, gates), w in zip(
            cotangents, previous, saved, weights, strict=True
        )
    ]
    backwards = [not is_reverse for is_reverse in reverse]
    final = _run(step, time, backwards, [start() for _ in weights], constants)
    parts = [
        _parameter_cotangents(steps, w, before, jnp.concatenate(to_gates, -1), dtype)
        for w, before, (_, to_gates) in zip(weights, previous, final, strict=True)
    ]
    to_inputs = sum(to_inputs for to_inputs, _ in parts).reshape(time, batch, -1)
    return to_inputs.swapaxes(0, 1), tuple(to_weights for _, to_weights in parts), None


static_states.defvjp(_forward, _backward)


def _run(step, time, reverse, carries, constants):
    """Runs all directions in one loop.

    Args:
      step: maps the time, whether it runs in reverse, the carry and the constants of a
        direction to its new carry.
      time: number of steps.
      reverse: for each direction, whether time runs in reverse.
      carries: first carry of each direction.
      constants: a tuple for each direction.

    Returns:
      The last carry of each direction.
    """

    def body(i, carries):
        return [
            step(time - 1 - i if is_reverse else i, is_reverse, carry, *of_direction)
            for is_reverse, carry, of_direction in zip(
                reverse, carries, constants, strict=True
            )
        ]

    return jax.lax.fori_loop(0, time, body, carries, unroll=_STEPS_PER_ITERATION)


def _parameter_cotangents(steps, weights, previous, to_gates, dtype):
    """Returns the cotangents of the inputs and the weights of one direction.

    Args:
      steps: inputs `[time * batch, dim]`.
      weights: parameters.
      previous: state before each step, `[time, batch, hidden]`.
      to_gates: cotangents of the inputs of the gates, `[time, batch, 4 * hidden]`: of
        `n`, `r`, `z`, and of the recurrent product of `n`.
      dtype: of the products.
    """
    hidden = len(weights.recurrent_kernel)
    to_gates = to_gates.reshape(len(steps), 4 * hidden)
    to_projected, to_recurrent = to_gates[:, : 3 * hidden], to_gates[:, hidden:]
    input_kernel = jnp.roll(weights.input_kernel.astype(dtype), hidden, axis=1)
    # As a product, the sum over all rows takes a fraction of the time of a reduction.
    ones = jnp.ones((1, len(steps)), dtype)
    sums = product(ones, to_gates, dtype)[0]
    to_n, to_r, to_z, to_recurrent_n = split_gates(sums, parts=4)
    to_weights = GRUWeights(
        jnp.roll(product(steps.T, to_projected, dtype), -hidden, axis=1),
        jnp.concatenate([to_r, to_z, to_n]),
        product(previous.reshape(len(steps), hidden).T, to_recurrent, dtype),
        jnp.concatenate([to_r, to_z, to_recurrent_n]),
    )
    return product(to_projected, input_kernel.T, dtype), to_weights


def _project(steps, exists, weights, dtype):
    """Returns the inputs of the gates `[time, batch, 3 * hidden]`."""
    projected = product(steps, weights.input_kernel, dtype) + weights.input_bias
    hidden = len(weights.recurrent_kernel)
    fill = jnp.repeat(jnp.array([0, _KEEP_STATE, 0], jnp.float32), hidden)
    return jnp.where(exists, projected.reshape(*exists.shape[:2], -1), fill)


def _exists(lengths, time):
    """Returns whether a step is within its sequence, bool `[time, batch, 1]`."""
    return (jnp.arange(time)[:, None] < lengths)[..., None]


def _before(states, is_reverse):
    """Returns the state before each step, of `[time + 1, batch, hidden]`."""
    return states[1:] if is_reverse else states[:-1]


def _after(states, is_reverse):
    return states[:-1] if is_reverse else states[1:]


def _read(array, t):
    return jax.lax.dynamic_index_in_dim(
        array, t, keepdims=False, allow_negative_indices=False
    )


def _write(array, value, t):
    return jax.lax.dynamic_update_index_in_dim(
        array, value.astype(array.dtype), t, 0, allow_negative_indices=False
    )


# An array per gate: a concatenation in each iteration would take longer.
def _empty(shape, dtype, gates=4):
    return [jax.lax.empty(shape, dtype) for _ in range(gates)]


def _write_all(arrays, values, t):
    return [_write(*pair, t) for pair in zip(arrays, values, strict=True)]
