"""Applies a function to the rows of arrays that are used, in one of a few sizes.

Shapes are static in XLA. A function of the first `n` rows is therefore compiled for a
few numbers of rows, and a branch chooses the next larger one when the program runs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def on_first_rows(
    function: Callable,
    arrays: Sequence[jax.Array],
    rows: jax.Array,
    block: int,
    size: int,
) -> Any:
    """Calls `function` with the first `rows` of `arrays`, rounded up to `block` rows.

    Args:
      function: maps arrays `[n, ...]` to a pytree of arrays, whose shapes are the same
        for every `n`; see `padded`.
      arrays: of at least `size` rows.
      rows: int32, number of rows that are used, at most `size`.
      block: the function is compiled for each multiple of it up to `size`.
      size: largest number of rows.

    Returns:
      What `function` returns.
    """

    def branch(count, *arrays):
        return function(*(array[:count] for array in arrays))

    if block == size:
        return branch(size, *arrays)
    counts = [min(count, size) for count in range(0, size + block, block)]
    branches = [functools.partial(branch, count) for count in counts]
    return jax.lax.switch((rows + block - 1) // block, branches, *arrays)


def padded(array: jax.Array, size: int) -> jax.Array:
    """Returns `[rows, dim]` with zeros behind, `[size, dim]`."""
    return jnp.pad(array, ((0, size - len(array)), (0, 0)))
