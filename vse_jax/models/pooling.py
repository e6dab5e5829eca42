"""Pooling of a set of vectors into one: the generalized pooling operator, mean, max.

Chen et al., "Learning the Best Pooling Strategy for Visual Semantic Embedding" (2021):
every dimension's values are sorted in descending order and summed with weights that a
small recurrent network gives to the ranks. Mean and max pooling are special cases.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vse_jax.models import initializers, recurrent

MASKED_SCORE = -10_000.0
SCORE_TEMPERATURE = 0.1


class GeneralizedPooling(nn.Module):
    """The generalized pooling operator (GPO).

    Attributes:
      position_dim: size of the sinusoidal encoding of a rank.
      hidden_dim: size of the recurrent network's state.
    """

    position_dim: int = 32
    hidden_dim: int = 32

    @nn.compact
    def __call__(self, vectors: jax.Array, count: jax.Array) -> jax.Array:
        """Pools the first `count` of each row's vectors.

        Args:
          vectors: `[batch, length, dim]` float32.
          count: `[batch]` int32, at least 1 and at most `length`.

        Returns:
          `[batch, dim]` float32.
        """
        weights = self.rank_weights(vectors.shape[1])
        return ranked_sum(vectors, weights[count - 1], count)

    @nn.compact
    def rank_weights(self, length: int) -> jax.Array:
        """Returns `[length, length]`: row `i` has the weights of a set of `i + 1`.

        The weights depend on the size of the set alone, so that they are computed once
        for every possible size and not for every sample.
        """
        counts = jnp.arange(length, 0, -1)  # descending, as the recurrence wants them
        positions = jnp.asarray(sinusoidal_positions(length, self.position_dim))
        positions = jnp.broadcast_to(positions, (length, *positions.shape))
        states = recurrent.BidirectionalGRU(self.hidden_dim, name="gru")(
            positions, counts
        )
        score = initializers.torch_dense(
            1, self.hidden_dim, use_bias=False, name="score"
        )
        scores = score(states)[..., 0]
        exists = jnp.arange(length) < counts[:, None]
        scores = jnp.where(exists, scores, MASKED_SCORE)
        return jax.nn.softmax(scores / SCORE_TEMPERATURE, axis=-1)[::-1]


def mean_pooling(vectors: jax.Array, count: jax.Array) -> jax.Array:
    """Averages the first `count` of `[batch, length, dim]` to `[batch, dim]`."""
    exists = jnp.arange(vectors.shape[1]) < count[:, None]
    return jnp.where(exists[..., None], vectors, 0).sum(1) / count[:, None]


def max_pooling(vectors: jax.Array, count: jax.Array) -> jax.Array:
    """Takes each dimension's maximum of the first `count` of `[batch, length, dim]`."""
    exists = jnp.arange(vectors.shape[1]) < count[:, None]
    return jnp.where(exists[..., None], vectors, -jnp.inf).max(1)


def pool_grid(regions: jax.Array, size: int) -> jax.Array:
    """Averages a square grid of regions to a smaller one.

    Where `size` does not divide the rows, neighbouring cells share one, as in PyTorch's
    adaptive average pooling.

    Args:
      regions: `[batch, rows * rows, dim]`, row by row.
      size: rows and columns of the new grid.

    Returns:
      `[batch, size * size, dim]`.
    """
    batch, count, dim = regions.shape
    rows = math.isqrt(count)
    grid = regions.reshape(batch, rows, rows, dim)
    shares = _cell_shares(rows, size)
    pooled = _einsum("yr,xc,brcd->byxd", shares, shares, grid)
    return pooled.reshape(batch, size * size, dim)


def _cell_shares(rows: int, size: int) -> np.ndarray:
    """`[size, rows]` float32: how much each row adds to each new one."""
    shares = np.zeros((size, rows), np.float32)
    for i in range(size):
        cell = slice(i * rows // size, -(-(i + 1) * rows // size))
        shares[i, cell] = 1 / (cell.stop - cell.start)
    return shares


def sinusoidal_positions(length: int, dim: int) -> np.ndarray:
    """Returns the `[length, dim]` float32 encoding of positions of the Transformer."""
    position = np.arange(length)[:, None]
    frequency = np.exp(np.arange(0, dim, 2) * -(np.log(10_000.0) / dim))
    encoding = np.empty((length, dim), np.float32)
    encoding[:, 0::2] = np.sin(position * frequency)
    encoding[:, 1::2] = np.cos(position * frequency)
    return encoding


_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def ranked_sum(vectors: jax.Array, weights: jax.Array, count: jax.Array) -> jax.Array:
    """Sums each dimension's values, each weighted by its rank among them.

    Equal to sorting every dimension in descending order and summing with `weights`, but
    a rank is a count of pairwise comparisons, which is many times faster than a sort
    and whose gradient is a look-up. Of equal values, the first has the lower rank.

    Args:
      vectors: `[batch, length, dim]`; only the first `count` of each row take part.
      weights: `[batch, length]`, the weight of each rank.
      count: `[batch]` int32.

    Returns:
      `[batch, dim]`.
    """
    return _ranked_sum_forward(vectors, weights, count)[0]


def _ranked_sum_forward(vectors, weights, count):
    exists = (jnp.arange(vectors.shape[1]) < count[:, None])[..., None]
    rank = _descending_rank(jnp.where(exists, vectors, -jnp.inf))
    ranked = _put_by_rank(jnp.where(exists, vectors, 0), rank)
    pooled = _einsum("bnd,bn->bd", ranked, weights)
    return pooled, (ranked, weights, rank, exists)


def _ranked_sum_backward(residuals, gradient):
    ranked, weights, rank, exists = residuals
    to_weights = _einsum("bnd,bd->bn", ranked, gradient)

    def to_vectors():
        to_vectors = gradient[:, None] * _look_up(weights, rank)
        return jnp.where(exists, to_vectors, 0)

    def zeros():
        return jnp.zeros(rank.shape, gradient.dtype)

    # Several products want this gradient. What is behind a condition, if one that
    # always holds, XLA does not fuse into each of them to be computed anew.
    return jax.lax.cond(exists.any(), to_vectors, zeros), to_weights, None


ranked_sum.defvjp(_ranked_sum_forward, _ranked_sum_backward)


# Below, sums over the vectors are unrolled: XLA makes one loop of each, whose body is
# comparisons and selections in registers. Gathers, scatters and sorts are many times
# slower, on accelerators too.


def _descending_rank(values):
    """Rank of each of `[batch, length, dim]` along `length`, 0 for the largest."""
    length = values.shape[1]
    index = jnp.arange(length)[:, None]
    # Small integers keep the count in few registers: half the time of int32.
    dtype = jnp.int8 if length <= 127 else jnp.int32
    rank = jnp.zeros(values.shape, dtype)
    for i in range(length):
        other = values[:, i : i + 1]
        beats = (other > values) | ((other == values) & (i < index))
        rank += beats.astype(dtype)
    return rank


def _put_by_rank(values, rank):
    """Moves each of `[batch, length, dim]` to where its rank says."""
    place = jnp.arange(values.shape[1], dtype=rank.dtype)[:, None]
    result = jnp.zeros_like(values)
    for i in range(values.shape[1]):
        is_here = rank[:, i : i + 1] == place
        result = jnp.where(is_here, values[:, i : i + 1], result)
    return result


def _look_up(weights, rank):
    """`weights[b, rank[b, i, d]]` of `[batch, length]`, `[batch, length, dim]`."""
    candidates = [weights[:, i, None, None] for i in range(weights.shape[1])]
    bits = rank
    while len(candidates) > 1:  # each bit of the rank halves them
        is_odd = (bits & 1).astype(bool)
        pairs = itertools.zip_longest(candidates[::2], candidates[1::2])
        candidates = [
            even if odd is None else jnp.where(is_odd, odd, even) for even, odd in pairs
        ]
        bits = bits >> 1
    return jnp.broadcast_to(candidates[0], rank.shape)
