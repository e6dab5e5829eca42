"""Gated recurrent units with PyTorch's gate equations, so that its weights load.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

The kernels compute the recurrence: `packed_gru.py` on CPUs, which skips padding, and
`static_gru.py` on accelerators, which runs both directions in one loop. Exported
programs use the plain form, `scanned_gru.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.kernels.packed_gru import packed_states
from vse_jax.models.kernels.platforms import per_platform
from vse_jax.models.kernels.scanned_gru import GRUWeights, scanned_states
from vse_jax.models.kernels.static_gru import static_states


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
        weights = self.weights(inputs.shape[-1])
        (states,) = _gru_states(
            inputs, (weights,), lengths, (self.reverse,), jnp.dtype(self.dtype).name
        )
        if self.reverse:
            return states, states[:, 0]
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        return states, jnp.take_along_axis(states, last, axis=1)[:, 0]

    @nn.compact
    def weights(self, dim: int) -> GRUWeights:
        """Returns the parameters for inputs of `dim` dimensions, float32."""
        init = initializers.uniform(self.hidden_dim**-0.5)
        width = 3 * self.hidden_dim
        return GRUWeights(
            self.param("input_kernel", init, (dim, width)),
            self.param("input_bias", init, (width,)),
            self.param("recurrent_kernel", init, (self.hidden_dim, width)),
            self.param("recurrent_bias", init, (width,)),
        )


class BidirectionalGRU(nn.Module):
    """One layer in both directions, with averaged states (VSE-infinity).

    Attributes:
      hidden_dim: size of each direction's state and of the output.
      dtype: of the products.
    """

    hidden_dim: int
    dtype: jnp.dtype = jnp.float32

    def __call__(self, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps `[batch, time, dim]`, `[batch]` to `[batch, time, hidden]`."""
        forward, backward = _gru_states(
            inputs,
            self.weights(inputs.shape[-1]),
            lengths,
            (False, True),
            jnp.dtype(self.dtype).name,
        )
        return (forward + backward) / 2

    @nn.compact
    def weights(self, dim: int) -> tuple[GRUWeights, GRUWeights]:
        """Returns the parameters, forwards and backwards, for inputs of `dim`."""
        forward = GRU(self.hidden_dim, name="forward")
        backward = GRU(self.hidden_dim, name="backward")
        return forward.weights(dim), backward.weights(dim)


def _gru_states(
    inputs: jax.Array,
    weights: tuple[GRUWeights, ...],
    lengths: jax.Array,
    reverse: tuple[bool, ...],
    dtype: str,
) -> tuple[jax.Array, ...]:
    """Runs the recurrence in the form that is fastest on the platform.

    Args:
      inputs: `[batch, time, dim]`.
      weights: parameters of each direction, float32.
      lengths: `[batch]` int32, in descending order.
      reverse: for each direction, whether to run from each sequence's last step to its
        first.
      dtype: of the products.

    Returns:
      For each direction, states `[batch, time, hidden]` float32, zero beyond each
      sequence's end.
    """

    def on_cpu(inputs, weights, lengths):
        return tuple(
            packed_states(inputs, of_direction, lengths, is_reverse, dtype)
            for of_direction, is_reverse in zip(weights, reverse, strict=True)
        )

    def otherwise(inputs, weights, lengths):
        return static_states(inputs, weights, lengths, reverse, dtype)

    def plain(inputs, weights, lengths):
        return tuple(
            scanned_states(inputs, of_direction, lengths, is_reverse)
            for of_direction, is_reverse in zip(weights, reverse, strict=True)
        )

    return per_platform(on_cpu, otherwise, inputs, weights, lengths, plain=plain)
