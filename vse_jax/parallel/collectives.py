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


def gather(array: jax.Array, *, axis: int = 0) -> jax.Array:
    """Concatenates arrays of all devices, in order; for per-device code.

    Args:
      array: this device's array, `[batch, ...]` if `axis` is 0.
      axis: axis that becomes longer.
    """
    return jax.lax.all_gather(array, AXIS, axis=axis, tiled=True)


def scatter_sum(array: jax.Array, axis: int) -> jax.Array:
    """Adds an array up over all devices, and returns this device's part of the sum.

    Args:
      array: the number of devices divides its length along `axis`.
      axis: axis along which the sum is split, as `gather` concatenates.
    """
    return jax.lax.psum_scatter(array, AXIS, scatter_dimension=axis, tiled=True)


def pass_on(tree: Any) -> Any:
    """Sends a pytree to the next device, the last one's to the first.

    For per-device code.

    Returns:
      The pytree of the previous device.
    """
    devices = axis_size()
    if devices == 1:
        return tree
    ring = [(device, (device + 1) % devices) for device in range(devices)]
    return jax.lax.ppermute(tree, AXIS, ring)


def own_part(array: jax.Array, axis: int) -> jax.Array:
    """Returns this device's part of an array that is equal on all devices.

    Args:
      array: the number of devices divides its length along `axis`.
      axis: axis along which the array is split, as `gather` concatenates.
    """
    length = array.shape[axis] // axis_size()
    start = jax.lax.axis_index(AXIS) * length
    return jax.lax.dynamic_slice_in_dim(array, start, length, axis)


def axis_size() -> int:
    """Returns the number of devices; for per-device code."""
    return jax.lax.axis_size(AXIS)


def position_in_global_batch(batch_size: int) -> jax.Array:
    """`[batch]` int32: where this device's `batch_size` rows are after `gather`."""
    return jax.lax.axis_index(AXIS) * batch_size + jnp.arange(batch_size)
