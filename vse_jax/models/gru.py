"""Gated recurrent units with PyTorch's gate equations, so that its weights load.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

`kernels/packed_gru.py` computes the recurrence.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.kernels.packed_gru import GRUWeights, packed_states


class GRU(nn.Module):
    """One layer in one direction, over sequences sorted by length.

    Attributes:
      hidden_dim: size of the state.
      reverse: whether to run from each sequence's last step to its first.
      dtype: of the products; the state itself is float32.
    """

    hidden_dim: int
    reverse: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the recurrence from a state of zeros.

        Args:
          inputs: `[batch, time, dim]`.
          lengths: `[batch]` int32, lengths of the sequences in descending order.

        Returns:
          The states, `[batch, time, hidden]` float32, zero beyond the end of each
          sequence, and the state after the last step of the recurrence,
          `[batch, hidden]` float32.
        """
        init = initializers.uniform(self.hidden_dim**-0.5)
        width = 3 * self.hidden_dim
        input_kernel = self.param("input_kernel", init, (inputs.shape[-1], width))
        input_bias = self.param("input_bias", init, (width,))
        kernel = self.param("recurrent_kernel", init, (self.hidden_dim, width))
        bias = self.param("recurrent_bias", init, (width,))

        weights = GRUWeights(input_kernel, input_bias, kernel, bias)
        dtype = jnp.dtype(self.dtype).name
        states = packed_states(inputs, weights, lengths, self.reverse, dtype)
        if self.reverse:
            return states, states[:, 0]
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        return states, jnp.take_along_axis(states, last, axis=1)[:, 0]


class BidirectionalGRU(nn.Module):
    """One layer in both directions, with averaged states (VSE-infinity).

    Attributes:
      hidden_dim: size of each direction's state and of the output.
      dtype: of the products.
    """

    hidden_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps `[batch, time, dim]`, `[batch]` to `[batch, time, hidden]`."""
        forward = GRU(self.hidden_dim, dtype=self.dtype, name="forward")
        backward = GRU(self.hidden_dim, reverse=True, dtype=self.dtype, name="backward")
        return (forward(inputs, lengths)[0] + backward(inputs, lengths)[0]) / 2
