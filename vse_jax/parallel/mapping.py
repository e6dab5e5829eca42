"""Runs per-device code on all devices, with `jax.pmap` or with `jax.shard_map`.

Both backends run the same program, and their results are equal bit for bit. An argument
or a result is either replicated or split over the devices:

- `REPLICATED`: every device has the whole array, and the array has no axis of devices.
- `SPLIT`: the array has a leading axis of devices, `[devices, ...]`. Per-device code
  sees its own entry, without this axis.

Arrays on the devices are global: a host can read only what is on its own devices.
"""

import contextlib
import ctypes
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vse_jax.parallel.collectives import AXIS
from vse_jax.parallel.compiler import options_of_steps

REPLICATED, SPLIT = PartitionSpec(), PartitionSpec(AXIS)

_seconds_compiling = 0.0  # for which the main thread has waited


def map_over_devices(
    function: Callable,
    in_specs: Any,
    out_specs: Any,
    *,
    donate_argnums=(),
    devices: Sequence[jax.Device] | None = None,
    backend: str = "pmap",
) -> "Mapped":
    """Runs per-device code on all devices, compiled once per shape of its arguments.

    Args:
      function: takes and returns pytrees of arrays.
      in_specs: tuple with `REPLICATED` or `SPLIT` for each argument, or for parts of it
        (a pytree that is a prefix of the argument). At least one argument is split.
      out_specs: the same for the result.
      donate_argnums: positions of arguments whose memory the results may reuse.
      devices: devices to use; None for those of all hosts. They may be devices of a
        topology that is not present, for `Mapped.lower` only.
      backend: one of `BACKENDS`.

    Returns:
      A `Mapped` function that every host must call in the same order.
    """
    devices = tuple(devices) if devices is not None else all_devices()
    specs = tuple(in_specs), out_specs
    jitted = BACKENDS[backend](function, devices, *specs, donate_argnums)
    return Mapped(jitted, mesh_of(devices), tuple(in_specs))


def map_over_local_devices(
    function: Callable, in_specs: Any, out_specs: Any
) -> "Mapped":
    """Runs per-device code without collectives on the devices of this host.

    Hosts need not make the same calls. The arguments are those of `map_over_devices`.
    """
    return map_over_devices(
        function, in_specs, out_specs, devices=jax.local_devices(), backend="shard_map"
    )


def _pmap(function, devices, in_specs, out_specs, donate_argnums):
    def axes(specs):
        return jax.tree.map(lambda spec: 0 if spec == SPLIT else None, specs)

    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=axes(in_specs),
        out_axes=axes(out_specs),
        devices=devices,
        donate_argnums=donate_argnums,
    )


def _shard_map(function, devices, in_specs, out_specs, donate_argnums):
    mesh = mesh_of(devices)

    def on_device(*args):
        args = _of_split(lambda x: jnp.squeeze(x, 0), in_specs, args)
        return _of_split(lambda x: x[None], out_specs, function(*args))

    shardings = functools.partial(jax.tree.map, functools.partial(NamedSharding, mesh))
    return jax.jit(
        jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,  # gradients of collectives are those of `jax.pmap`
        ),
        in_shardings=shardings(in_specs),
        out_shardings=shardings(out_specs),
        donate_argnums=donate_argnums,
    )


BACKENDS = {"pmap": _pmap, "shard_map": _shard_map}


def _of_split(function, specs, tree):
    """Applies a function to the arrays of a tree that are split."""

    def apply(spec, part):
        return jax.tree.map(function, part) if spec == SPLIT else part

    return jax.tree.map(apply, specs, tree)


class Mapped:
    """Per-device code that runs on all devices; see `map_over_devices`.

    Programs are compiled once per shape of the arguments. Threads may compile programs
    ahead of time; a call waits for a program that another thread is compiling.
    """

    def __init__(self, jitted: Callable, mesh: Mesh, in_specs: tuple):
        self._jitted = jitted
        self._mesh = mesh
        self._in_specs = in_specs
        self._compiled = {}
        self._lock = threading.Lock()  # of `_compiling`
        self._compiling = {}  # a lock for each program

    def __call__(self, *args):
        """Calls the function.

        Args:
          *args: pytrees of global arrays, or of host arrays: those that are split have
            the entries of this host's devices, `[local_devices, ...]`.

        Returns:
          A pytree of global arrays.
        """
        args = tuple(map(self._put, self._in_specs, args))
        return self.compile(*args)(*args)

    def lower(self, *args) -> jax.stages.Lowered:
        """Returns the program for global arrays, or for their shapes."""
        return self._jitted.lower(*jax.tree.map(_abstract, args))

    def compile(self, *args) -> Callable:
        """Returns the compiled program for global arrays, or for their shapes."""
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key in self._compiled:
            return self._compiled[key]
        with self._lock:
            lock = self._compiling.setdefault(key, threading.Lock())
        with waiting_for_compiler(), lock:
            if key not in self._compiled:
                lowered = self.lower(*args)
                self._compiled[key] = lowered.compile(options_of_steps())
                _give_back_memory()
        return self._compiled[key]

    def _put(self, spec, tree):
        if isinstance(spec, PartitionSpec):
            return put(tree, NamedSharding(self._mesh, spec))
        return jax.tree.map(self._put, spec, tree)


def seconds_compiling() -> float:
    """Returns for how long the main thread has waited for the compiler so far."""
    return _seconds_compiling


@contextlib.contextmanager
def waiting_for_compiler():
    """Adds the main thread's time in the body to `seconds_compiling`."""
    global _seconds_compiling
    started, before = time.perf_counter(), _seconds_compiling
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            # Contexts may be nested.
            _seconds_compiling = before + time.perf_counter() - started


def _abstract(array):
    """Returns the shape and dtype of an array in the form that all backends take."""
    # With several hosts, `jax.pmap` would take any other form for this host's part.
    return jax.core.ShapedArray(array.shape, array.dtype)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Returns global arrays of this host's arrays; leaves those on devices alone."""

    def put_one(array):
        if isinstance(array, jax.Array) and (
            array.sharding.is_equivalent_to(sharding, array.ndim)
            or not array.is_fully_addressable
        ):
            return array
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return jax.tree.map(put_one, tree)


def local_device_count() -> int:
    """Returns the number of devices of this host."""
    return jax.local_device_count()


def all_devices() -> tuple[jax.Device, ...]:
    """All devices, those of the first host first, as `gather_over_hosts` orders."""
    return tuple(sorted(jax.devices(), key=lambda device: device.process_index))


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Returns the mesh of one axis over the devices."""
    return Mesh(np.array(devices), (AXIS,))


def _give_back_memory():
    """Returns to the system what the C library keeps after a compilation.

    For the paper's model that is half a gigabyte, which would add to every step's own.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # it is glibc's alone
        trim(0)


def replicate(tree: Any) -> Any:
    """Puts a copy of a pytree of host arrays on every device, for `REPLICATED`.

    Args:
      tree: arrays, the same on every host.
    """
    return _copy_to(all_devices(), tree)


def replicate_on_host(tree: Any) -> Any:
    """As `replicate`, for `map_over_local_devices`."""
    return _copy_to(jax.local_devices(), tree)


def share_on_host(tree: Any) -> Any:
    """Puts a pytree on this host's devices, for `map_over_local_devices`.

    Unlike `replicate_on_host`, compiles nothing, but the devices may share the memory
    of the host's arrays, which must not change.
    """
    return put(tree, NamedSharding(mesh_of(jax.local_devices()), REPLICATED))


def _copy_to(devices, tree):
    # Compiled, since `jax.device_put` may share the memory of the host's arrays.
    sharding = NamedSharding(mesh_of(devices), REPLICATED)
    copy = jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=sharding)
    return copy(tree)


def unreplicate(tree: Any) -> Any:
    """Fetches a replicated pytree to the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


def put_split(tree: Any) -> Any:
    """Puts a pytree of host arrays on the devices, for `SPLIT`.

    Args:
      tree: arrays `[devices, ...]`, the same on every host.
    """
    sharding = NamedSharding(mesh_of(all_devices()), SPLIT)

    def put_one(array):
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    # Copied, since the devices may share the memory of the host's arrays.
    copy = jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=sharding)
    return copy(jax.tree.map(put_one, tree))


def fetch_split(tree: Any) -> Any:
    """Fetches a split pytree, `[devices, ...]`, to every host; all must call it."""
    replicated = NamedSharding(mesh_of(all_devices()), REPLICATED)
    gather_all = jax.jit(lambda x: x, out_shardings=replicated)

    def fetch(array):
        if not array.is_fully_addressable:
            # One array at a time, since the devices may not have room for all.
            array = gather_all(array).addressable_data(0)
        return np.asarray(array)

    return jax.tree.map(fetch, tree)


def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits this host's rows, `[batch, ...]` to `[local_devices, rows, ...]`.

    The rows are a multiple of this host's devices, see `check_batch_size`.
    """
    devices = jax.local_device_count()
    return {
        name: array.reshape(devices, -1, *array.shape[1:])
        for name, array in batch.items()
    }


def put_rows(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Starts to copy this host's rows of a batch to the devices, for `SPLIT`.

    Args:
      batch: `[batch, ...]`, rows of this host.

    Returns:
      Global arrays `[devices, rows, ...]`.
    """
    return put(shard(batch), NamedSharding(mesh_of(all_devices()), SPLIT))


def shapes_of_rows(
    batch: dict[str, np.ndarray], devices: Sequence[jax.Device] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch on the devices, for `SPLIT`.

    Args:
      batch: arrays or shapes `[batch, ...]`: rows of this host as `put_rows` takes
        them, or with `devices` the rows of all of them.
      devices: devices of a topology that is not present; None for those of all hosts.
    """
    total = len(devices) if devices else jax.device_count()
    holding = total if devices else jax.local_device_count()  # the batch's rows

    def shape(array):
        shape = (total, array.shape[0] // holding, *array.shape[1:])
        return jax.ShapeDtypeStruct(shape, array.dtype)

    return jax.tree.map(shape, batch)


def fetch_rows(array: jax.Array) -> np.ndarray:
    """Undoes `shard`, of what `map_over_local_devices` returned."""
    return np.asarray(array).reshape(-1, *array.shape[2:])
