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
    padded_size: int | None = None,
) -> Any:
    """Calls `function` with the first `rows` of `arrays`, rounded up to `block` rows.

    Args:
      function: maps arrays `[n, ...]` to an array or to a pytree of arrays.
      arrays: `[size, ...]`.
      rows: int32, number of rows that are used.
      block: the function is compiled for each multiple of it up to `size`.
      padded_size: rows of each array of the result, `[n, dim]`, padded with zeros; None
        if the result has the same shape for any number of rows.

    Returns:
      What `function` returns.
    """
    size = len(arrays[0])

    def branch(count, *arrays):
        result = function(*(array[:count] for array in arrays))
        if padded_size is None:
            return result
        return jax.tree.map(lambda x: _padded(x, padded_size), result)

    if block == size:
        return branch(size, *arrays)
    counts = [min(count, size) for count in range(0, size + block, block)]
    branches = [functools.partial(branch, count) for count in counts]
    return jax.lax.switch((rows + block - 1) // block, branches, *arrays)


def _padded(array, size):
    return jnp.pad(array, ((0, size - len(array)), (0, 0)))
