"""Counts the candidates that score at least a limit; a rank is such a count."""

import math

import jax
import jax.numpy as jnp

_LARGEST_PART = 64  # so many fit into 8 bits


def count_not_below(
    scores: jax.Array, limits: jax.Array, axis: int, where: jax.Array | bool = True
) -> jax.Array:
    """Counts the scores that are not below their limits.

    A score or a limit of NaN counts, so that embeddings of NaN have a low recall.

    Args:
      scores: float.
      limits: float, of a shape that broadcasts with that of `scores`.
      axis: axis to count over.
      where: bool, of a shape that broadcasts with that of `scores`: which scores count.

    Returns:
      int32, of the common shape without the axis.
    """
    # Not `>=`, since every comparison with NaN is false.
    return _count_true(where & ~(scores < limits), axis)


def _count_true(mask: jax.Array, axis: int) -> jax.Array:
    """Counts true values; sums of 8 bits first, which is twice as fast on CPUs."""
    axis %= mask.ndim
    size = mask.shape[axis]
    part = math.gcd(size, _LARGEST_PART)
    mask = mask.reshape(*mask.shape[:axis], part, size // part, *mask.shape[axis + 1 :])
    return mask.sum(axis, dtype=jnp.int8).sum(axis, dtype=jnp.int32)
