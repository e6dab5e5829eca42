"""Collectives of per-device code."""

from typing import Any

import jax
import jax.numpy as jnp

AXIS = "devices"


def sum_over_devices(tree: Any) -> Any:
    """Adds a pytree up over all devices; for per-device code."""
    if jax.lax.axis_size(AXIS) == 1:
        return tree  # XLA would copy it
    return jax.lax.psum(tree, AXIS)


def gather(array: jax.Array) -> jax.Array:
    """Concatenates `[batch, ...]` of all devices, in order; for per-device code."""
    return jax.lax.all_gather(array, AXIS, tiled=True)


def position_in_global_batch(batch_size: int) -> jax.Array:
    """`[batch]` int32: where this device's `batch_size` rows are after `gather`."""
    return jax.lax.axis_index(AXIS) * batch_size + jnp.arange(batch_size)
