"""Tables whose rows are spread over the memory of all devices.

A table is a global array `[devices, rows, ...]` for `SPLIT`: each device holds an equal
number of consecutive rows, so that each host holds consecutive rows too. The last
device's part ends with zeros if the rows do not divide.
"""

import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from vse_jax.parallel.collectives import AXIS, gather
from vse_jax.parallel.mapping import SPLIT, all_devices, mesh_of

# Bytes of the rows that `take_rows` holds at once, for all devices' part of a batch.
_BLOCK_BYTES = 256 * 2**20
_CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


class Memory(NamedTuple):
    """Memory of one device, in bytes."""

    free: int
    total: int


def device_memory() -> Memory:
    """Returns the memory of a device of this host; the devices are alike.

    A CPU device has an equal share of the host's memory.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        total = stats["bytes_limit"]
        return Memory(total - stats.get("bytes_in_use", 0), total)
    share = _host_memory() // jax.local_device_count()
    return Memory(share, share)


def _host_memory() -> int:
    """Returns the memory that this process may use, in bytes."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # absent, or the word "max"
        return physical


def rows_per_device(rows: int, devices: int | None = None) -> int:
    """Returns how many of a table's rows are on each device.

    Args:
      rows: rows of the whole table.
      devices: number of devices; None for all that JAX finds.
    """
    return -(-rows // (devices or jax.device_count()))


def rows_of_this_host(rows: int) -> int:
    """Returns how many of a table's rows are on the devices of this host."""
    return sum(len(part) for _, part in _parts_of_this_host(rows))


def _parts_of_this_host(rows):
    """Returns the devices of this host, each with the range of its rows."""
    own = rows_per_device(rows)
    return [
        (device, range(rows)[position * own : (position + 1) * own])
        for position, device in enumerate(all_devices())
        if device.process_index == jax.process_index()
    ]


def fill_table(
    rows: int,
    row_shape: tuple[int, ...],
    dtype: np.dtype,
    read: Callable[[range], Iterable[np.ndarray]],
) -> jax.Array:
    """Creates a table; each host reads the rows of its own devices only.

    The host holds a few arrays that `read` yields, never a device's whole part.

    Args:
      rows: rows of the whole table.
      row_shape: shape of a row.
      dtype: dtype of the table.
      read: takes a range of rows; yields them in order, in arrays `[some, *row_shape]`.

    Returns:
      A global array `[devices, rows_per_device, *row_shape]`.
    """
    shape = (1, rows_per_device(rows), *row_shape)
    parts = []
    for device, part in _parts_of_this_host(rows):
        array = jnp.zeros(shape, dtype, device=device)
        start = part.start
        for chunk in read(part):
            chunk = jax.device_put(chunk, device)
            array = _write(array, chunk, start - part.start).block_until_ready()
            start += len(chunk)
        parts.append(array)
    sharding = NamedSharding(mesh_of(all_devices()), SPLIT)
    shape = (jax.device_count(), *shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


@functools.partial(jax.jit, donate_argnums=0)
def _write(array, chunk, start):
    """Writes rows from `start` on, in place."""
    place = (0, start, *[0] * (chunk.ndim - 1))
    return jax.lax.dynamic_update_slice(array, chunk[None], place)


def take_rows(table: jax.Array, index: jax.Array) -> jax.Array:
    """Returns rows of a table, whichever devices hold them; for per-device code.

    Every device looks up the rows that it holds for all devices, with zeros for the
    others, and a sum over the devices gives each device its rows. The sum is exact,
    since the numbers are integers and only one term is not zero. Beside the result, a
    device needs the memory of the rows of all devices, or at most about 256 MiB, since
    larger batches are taken in blocks.

    Args:
      table: `[rows, ...]` integers, this device's part.
      index: `[batch]` int32, this device's rows of the whole table.

    Returns:
      `[batch, ...]`.
    """
    devices = jax.lax.axis_size(AXIS)
    if devices == 1:
        return table[index]
    row_bytes = math.prod(table.shape[1:]) * table.dtype.itemsize
    blocks = _number_of_blocks(len(index), devices * row_bytes)
    take = functools.partial(_take_block, table)
    if blocks == 1:
        return take(index)
    taken = jax.lax.map(take, index.reshape(blocks, -1))
    return taken.reshape(len(index), *table.shape[1:])


def _number_of_blocks(rows: int, row_bytes: int) -> int:
    """Returns the smallest number of equal blocks that are small enough."""
    largest = max(1, _BLOCK_BYTES // row_bytes)
    return next(
        count
        for count in range(1, rows + 1)
        if rows % count == 0 and rows // count <= largest
    )


def _take_block(table, index):
    place = gather(index) - jax.lax.axis_index(AXIS) * len(table)
    held = (place >= 0) & (place < len(table))
    rows = table[jnp.clip(place, 0, len(table) - 1)]
    rows = jnp.where(held.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)
    return jax.lax.psum_scatter(rows, AXIS, tiled=True)
