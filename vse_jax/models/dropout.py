"""Dropout that is the same on any number of devices and in any parts of a batch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Sets a share of the numbers of each row to 0 and scales the others up.

    The choice is a function of the key of the collection `dropout`, the row's number
    and the module's path. It does not depend on where the row is in the batch, unlike
    that of Flax's own dropout. Without this key, as in evaluation, nothing is dropped.

    Attributes:
      rate: probability that a number is dropped, at least 0 and less than 1.
    """

    rate: float

    @nn.compact
    def __call__(self, rows: jax.Array, numbers: jax.Array | None) -> jax.Array:
        """Drops numbers of `[rows, ...]`.

        Args:
          rows: floating-point `[rows, ...]`.
          numbers: int32 `[rows]`, by which the choices of rows differ; None if nothing
            is dropped.

        Returns:
          An array like `rows`. The expected value of each number is unchanged.
        """
        if not self.rate or not self.has_rng("dropout"):
            return rows
        keys = row_keys(self.make_rng("dropout"), numbers)
        return drop(self.rate, keys, rows)


def row_keys(key: jax.Array, *numbers: jax.Array) -> jax.Array:
    """Returns a key `[rows]` for each row, by its numbers, each int32 `[rows]`."""

    def of_row(*own):
        return functools.reduce(jax.random.fold_in, own, key)

    return jax.vmap(of_row)(*numbers)


def drop(rate: float, keys: jax.Array, rows: jax.Array) -> jax.Array:
    """Sets a share of the numbers of each row to 0 and scales the others up.

    Args:
      rate: probability that a number is dropped.
      keys: `[rows]`, which determine the choices.
      rows: floating-point `[rows, ...]`.
    """

    def is_kept(key):
        return jax.random.bernoulli(key, 1 - rate, rows.shape[1:])

    return jnp.where(jax.vmap(is_kept)(keys), rows / (1 - rate), 0)
