"""A bidirectional GRU over every prefix of one sequence, for GPO's rank weights.

The weights of `n` ranks need the states of a bidirectional GRU over the first `n`
positions. On CPUs both directions run over all prefixes as a batch. On
accelerators the time of such small products is the number of operations in a loop.
`joined_prefix_states` makes one recurrence of both directions: the state is the
concatenation of both states, and the kernels are block-diagonal. The backward direction
of a prefix begins in the same iteration as its forward direction, at its own last
position.

For 36 regions and captions of 24 tokens on a TPU v5e, the compiler estimates 0.34 ms
for the loops of both poolings with their gradients, and 0.79 ms with one step per
iteration. Loops that run two directions side by side take twice as long.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax.models.kernels.packed_gru import packed_states
from vse_jax.models.kernels.platforms import per_platform
from vse_jax.models.kernels.scanned_gru import GRUWeights, scanned_states
from vse_jax.models.kernels.static_gru import static_states

Directions = tuple[GRUWeights, GRUWeights]

_LANES = 128  # gates that begin at a multiple need no shifts within TPU registers


def prefix_states(sequence: np.ndarray, weights: Directions) -> jax.Array:
    """Returns the averaged states of a bidirectional GRU over every prefix.

    Args:
      sequence: `[length, dim]` float32.
      weights: parameters, forwards and backwards, float32.

    Returns:
      `[length, length, hidden]` float32; row `i` has the states of the first
      `length - i` steps, and zeros beyond them.
    """

    def on_cpu(weights):
        return packed_prefix_states(sequence, weights)

    def otherwise(weights):
        return joined_prefix_states(sequence, weights)

    def plain(weights):
        return scanned_prefix_states(sequence, weights)

    return per_platform(on_cpu, otherwise, weights, plain=plain)


def scanned_prefix_states(sequence: np.ndarray, weights: Directions) -> jax.Array:
    """The plain form of `prefix_states`: one scan per direction."""
    return _both_directions(sequence, weights, scanned_states)


def packed_prefix_states(sequence: np.ndarray, weights: Directions) -> jax.Array:
    """Equals `prefix_states`, with one packed recurrence per direction."""
    states = functools.partial(packed_states, dtype="float32")
    return _both_directions(sequence, weights, states)


def _both_directions(sequence, weights, states):
    length = len(sequence)
    counts = jnp.arange(length, 0, -1)  # `packed_states` needs descending lengths
    inputs = jnp.broadcast_to(jnp.asarray(sequence), (length, *sequence.shape))
    forward, backward = (
        states(inputs, of_direction, counts, reverse=is_reverse)
        for of_direction, is_reverse in zip(weights, (False, True), strict=True)
    )
    return (forward + backward) / 2


def joined_prefix_states(sequence: np.ndarray, weights: Directions) -> jax.Array:
    """Equals `prefix_states`, with one recurrence for both directions."""
    length = len(sequence)
    hidden = len(weights[0].recurrent_kernel)
    counts = np.arange(length, 0, -1)
    # In iteration `j`, the backward direction of a prefix is at its step `mirror[j]`.
    mirror = counts[:, None] - 1 - np.arange(length)
    forward = np.broadcast_to(sequence, (length, *sequence.shape))
    inputs = np.concatenate([forward, sequence[np.maximum(mirror, 0)]], axis=-1)
    (states,) = static_states(
        jnp.asarray(inputs), (_join(weights),), jnp.asarray(counts), (False,), "float32"
    )
    # A product with zeros and ones, since gathers are slow on accelerators.
    is_mirror = jnp.asarray(mirror[..., None] == np.arange(length))[..., None]
    backward = states[:, None, :, hidden : 2 * hidden]
    return (states[..., :hidden] + jnp.where(is_mirror, backward, 0).sum(2)) / 2


def _join(weights):
    """Makes one recurrence of two, with zeros between them and unused lanes."""
    hidden = len(weights[0].recurrent_kernel)
    size = -(-2 * hidden // _LANES) * _LANES

    def in_lanes(array, direction):
        gates = array.reshape(-1, 3, hidden)
        before = direction * hidden
        lanes = before, size - before - hidden
        return jnp.pad(gates, ((0, 0), (0, 0), lanes)).reshape(-1, 3 * size)

    def join(name):
        return [in_lanes(getattr(w, name), i) for i, w in enumerate(weights)]

    kernel = jnp.concatenate(join("recurrent_kernel"))
    return GRUWeights(
        jnp.concatenate(join("input_kernel")),
        sum(join("input_bias"))[0],
        jnp.pad(kernel, ((0, size - len(kernel)), (0, 0))),
        sum(join("recurrent_bias"))[0],
    )
