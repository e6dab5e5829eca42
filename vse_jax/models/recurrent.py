"""The gated recurrent unit, with PyTorch's gate equations so that its weights load.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

What depends on the inputs alone is one product over all time steps, made before the
recurrence; only the product with the state is inside of it. The derivative is written
by hand so that the gradient of the recurrent kernel is one large product after the
backward recurrence rather than a sum that is carried through it, and so that both
recurrences may stop at the longest sequence of the batch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers

# Sequences that have ended are left out of the products in blocks of so many rows: few
# enough to follow the lengths closely, many enough for an efficient product.
ROW_BLOCK = 32


class GRU(nn.Module):
    """One layer in one direction, over sequences sorted by length.

    Attributes:
      hidden_dim: size of the state.
      reverse: run from each sequence's last step to its first.
      dtype: of the products; the state itself is float32.
    """

    hidden_dim: int
    reverse: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, lengths: jax.Array) -> tuple:
        """Runs the recurrence from a state of zeros.

        Args:
          inputs: `[batch, time, dim]`.
          lengths: `[batch]` int32, of the sequences, in descending order.

        Returns:
          States `[batch, time, hidden]` float32, zero beyond each sequence's end, and
          the state after the last step that was run, `[batch, hidden]` float32.
        """
        init = initializers.uniform(self.hidden_dim**-0.5)
        width = 3 * self.hidden_dim
        input_kernel = self.param("input_kernel", init, (inputs.shape[-1], width))
        input_bias = self.param("input_bias", init, (width,))
        kernel = self.param("recurrent_kernel", init, (self.hidden_dim, width))
        bias = self.param("recurrent_bias", init, (width,))

        time_major = jnp.swapaxes(inputs, 0, 1)
        projected = _product(time_major, input_kernel, self.dtype) + input_bias
        states = _recurrence(
            projected, kernel, bias, lengths, self.reverse, jnp.dtype(self.dtype).name
        )
        states = jnp.swapaxes(states, 0, 1)
        if self.reverse:
            return states, states[:, 0]
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        return states, jnp.take_along_axis(states, last, axis=1)[:, 0]


class BidirectionalGRU(nn.Module):
    """One layer in both directions, whose states are averaged (VSE-infinity).

    Attributes:
      hidden_dim: size of each direction's state and of the output.
      dtype: of the products.
    """

    hidden_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps `[batch, time, dim]`, `[batch]` to `[batch, time, hidden]`."""
        forward, _ = GRU(self.hidden_dim, dtype=self.dtype, name="forward")(
            inputs, lengths
        )
        backward, _ = GRU(
            self.hidden_dim, reverse=True, dtype=self.dtype, name="backward"
        )(inputs, lengths)
        return (forward + backward) / 2


def _product(a, b, dtype):
    return jnp.dot(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _recurrence(projected, kernel, bias, lengths, reverse, dtype):
    """Returns the states `[time, batch, hidden]`, zero beyond each sequence's end.

    `projected` is `[time, batch, 3 hidden]`: the inputs' part of the gates.
    """
    return _recurrence_forward(projected, kernel, bias, lengths, reverse, dtype)[0]


def _recurrence_forward(projected, kernel, bias, lengths, reverse, dtype):
    time, batch, _ = projected.shape
    hidden = kernel.shape[0]
    kernel_cast = kernel.astype(dtype)

    def active_rows_step(rows, state, inputs):
        """Gates and new state of the first `rows` sequences; the rest stays zero."""
        state, inputs = state[:rows], inputs[:rows]
        recurrent = _product(state, kernel_cast, dtype) + bias
        input_r, input_z, input_n = jnp.split(inputs, 3, axis=-1)
        recurrent_r, recurrent_z, recurrent_n = jnp.split(recurrent, 3, axis=-1)
        r = jax.nn.sigmoid(input_r + recurrent_r)
        z = jax.nn.sigmoid(input_z + recurrent_z)
        n = jnp.tanh(input_n + r * recurrent_n)
        new_state = (1 - z) * n + z * state
        gates = jnp.concatenate([r, z, n, recurrent_n, new_state], axis=-1)
        return jnp.pad(gates, ((0, batch - rows), (0, 0)))

    def body(i, carry):
        state, states, gates = carry
        t = _time_of(i, lengths, reverse)
        active = (t < lengths)[:, None]
        step = _on_active_rows(active_rows_step, active, state, projected[t])
        new_state = jnp.where(active, step[:, 4 * hidden :], 0)
        states = states.at[t].set(new_state)
        gates = gates.at[t].set(step[:, : 4 * hidden])
        return new_state, states, gates

    start = (
        jnp.zeros((batch, hidden)),
        jnp.zeros((time, batch, hidden)),
        jnp.zeros((time, batch, 4 * hidden)),
    )
    _, states, gates = jax.lax.fori_loop(0, jnp.max(lengths), body, start)
    return states, (states, gates, kernel, lengths)


def _recurrence_backward(reverse, dtype, residuals, states_gradient):
    states, gates, kernel, lengths = residuals
    time, batch, hidden = states.shape
    previous_states = _previous(states, reverse)
    transposed_kernel = kernel.T.astype(dtype)

    def active_rows_step(rows, gradient, gates, previous):
        gradient, gates, previous = gradient[:rows], gates[:rows], previous[:rows]
        r, z, n, recurrent_n = jnp.split(gates, 4, axis=-1)
        to_n = gradient * (1 - z) * (1 - n * n)
        to_z = gradient * (previous - n) * z * (1 - z)
        to_r = to_n * recurrent_n * r * (1 - r)
        to_recurrent = jnp.concatenate([to_r, to_z, to_n * r], axis=-1)
        to_previous = gradient * z + _product(to_recurrent, transposed_kernel, dtype)
        step = jnp.concatenate([to_recurrent, to_n, to_previous], axis=-1)
        return jnp.pad(step, ((0, batch - rows), (0, 0)))

    def body(i, carry):
        state_gradient, gate_gradients = carry
        t = _time_of(jnp.max(lengths) - 1 - i, lengths, reverse)
        active = (t < lengths)[:, None]
        gradient = jnp.where(active, state_gradient + states_gradient[t], 0)
        step = _on_active_rows(
            active_rows_step, active, gradient, gates[t], previous_states[t]
        )
        step = jnp.where(active, step, 0)
        gate_gradients = gate_gradients.at[t].set(step[:, : 4 * hidden])
        return step[:, 4 * hidden :], gate_gradients

    start = (jnp.zeros((batch, hidden)), jnp.zeros((time, batch, 4 * hidden)))
    _, gate_gradients = jax.lax.fori_loop(0, jnp.max(lengths), body, start)

    to_recurrent = gate_gradients[..., : 3 * hidden]
    kernel_gradient = jnp.einsum(
        "tbh,tbg->hg",
        previous_states.astype(dtype),
        to_recurrent.astype(dtype),
        preferred_element_type=jnp.float32,
    )
    projected_gradient = jnp.concatenate(
        [gate_gradients[..., : 2 * hidden], gate_gradients[..., 3 * hidden :]], axis=-1
    )
    return projected_gradient, kernel_gradient, to_recurrent.sum((0, 1)), None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _time_of(i, lengths, reverse):
    return jnp.max(lengths) - 1 - i if reverse else i


def _previous(states, reverse):
    """The state that each step of `[time, batch, hidden]` started from."""
    zero = jnp.zeros_like(states[:1])
    if reverse:
        return jnp.concatenate([states[1:], zero])
    return jnp.concatenate([zero, states[:-1]])


def _on_active_rows(step, active, *arrays):
    """Calls `step(rows, *arrays)` with just enough rows to hold all active ones."""
    batch = active.shape[0]
    if batch <= ROW_BLOCK or batch % ROW_BLOCK:
        return step(batch, *arrays)
    branches = [
        functools.partial(step, rows) for rows in range(ROW_BLOCK, batch + 1, ROW_BLOCK)
    ]
    blocks = (active.sum(dtype=jnp.int32) + ROW_BLOCK - 1) // ROW_BLOCK
    return jax.lax.switch(blocks - 1, branches, *arrays)
