"""Everything that knows of more than one device or more than one host.

A step is written for one device, with the collectives below. `map_over_devices` runs it
on all devices: with `jax.pmap` on one host, with `jax.jit(jax.shard_map)` on several,
where the compiled form of `jax.pmap` cannot be called. Arguments of a mapped function
have a leading axis of devices: numpy arrays hold the rows of this host,
`[local_devices, ...]`, and results are global JAX arrays, `[devices, ...]`, of which a
host can read only the rows of its own devices.
"""

import contextlib
import ctypes
import functools
import itertools
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import tensorflow as tf
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vse_jax import host_connection
from vse_jax.errors import InputError, TrainingError, one_line

AXIS = "devices"
BARRIER_TIMEOUT = 7 * 24 * 3600  # seconds; one host may prepare data for days
_barrier_number = itertools.count()  # a name may be used for one barrier only


def set_up(
    config: ml_collections.ConfigDict, workdir: str, *, preemptible: bool = False
) -> None:
    """Prepares JAX for a run. Call it before anything else uses JAX.

    Connects the hosts, selects the devices, and sets JAX's compilation cache to
    `config.compilation_cache`, or to a folder beside the workdir. Only the primary host
    logs below the level of warnings.

    Args:
      config: see `configs/common.py`.
      workdir: folder of the run.
      preemptible: with several hosts, whether SIGTERM is noted for `agree_to_stop`
        instead of ending the process.

    Raises:
      InputError: if the hosts cannot be connected, or there is no device of
        `config.platform`.
    """
    host_connection.check_options(config)
    tf.config.set_visible_devices([], "GPU")  # TensorFlow reads data, nothing else
    cache = (
        config.compilation_cache or epath.Path(workdir).parent / ".compilation_cache"
    )
    jax.config.update("jax_compilation_cache_dir", str(epath.Path(cache).expanduser()))
    if config.dtype == "float32":
        # TPUs would multiply in bfloat16 all the same.
        jax.config.update("jax_default_matmul_precision", "float32")
    host_connection.connect(config, preemptible=preemptible)
    select_platform(config.platform)
    if not is_primary_host():
        logging.getLogger("vse_jax").setLevel(logging.WARNING)


def select_platform(platform: str) -> None:
    """Makes JAX use devices of one kind; to be called before anything else uses JAX.

    Args:
      platform: `cpu`, `gpu`, `tpu`, or empty for the best there is.

    Raises:
      InputError: if there is no such device.
    """
    if platform not in ("", "cpu", "gpu", "tpu"):
        raise InputError(
            f"config.platform is {platform!r}, expected cpu, gpu, tpu or nothing"
        )
    if platform in ("cpu", "tpu"):  # a GPU may be of several platforms of JAX
        jax.config.update("jax_platforms", platform)
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        found = one_line(error)
    if platform and platform != found:
        raise InputError(
            f"config.platform is {platform!r}, but JAX finds no such device "
            f"({found}); install JAX for it, or leave config.platform empty"
        )


def check_batch_size(batch_size: int, name: str) -> None:
    """Refuses a global batch that the devices do not divide.

    Raises:
      InputError: naming the option `name`, with batch sizes that would do.
    """
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        above = max(1, -(-batch_size // devices)) * devices
        below = max(devices, above - devices)
        nearby = " or ".join(map(str, sorted({below, above})))
        raise InputError(
            f"config.{name} is {batch_size}, which {devices} devices do not divide; "
            f"set it to {nearby}"
        )


@contextlib.contextmanager
def reporting_memory(batch_size: int, name: str) -> Iterator[None]:
    """Turns a device's lack of memory into an error that says what to try.

    Args:
      batch_size: global, that of the work inside.
      name: of the option that says so.

    Raises:
      TrainingError: with the batch size to try.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        devices = jax.device_count()
        smaller = batch_size // 2 // devices * devices
        advice = (
            f"try --config.{name}={smaller}"
            if smaller
            else "use a smaller model or more devices"
        )
        raise TrainingError(
            f"out of memory with config.{name}={batch_size} on {devices} devices "
            f"({one_line(error)}); {advice}"
        ) from error


def map_over_devices(function: Callable, donate_argnums=()) -> Callable:
    """Runs per-device code on all devices, compiled once per shape of its arguments.

    Args:
      function: takes and returns pytrees of arrays without the axis of devices.
      donate_argnums: positions of arguments whose memory the results may reuse.

    Returns:
      A function that every host must call in the same order.
    """
    return _map(function, _all_devices(), donate_argnums)


def map_over_local_devices(function: Callable) -> Callable:
    """Runs per-device code without collectives on the devices of this host.

    Hosts need not make the same calls. Compiled once per shape of the arguments.
    """
    return _map(function, jax.local_devices())


def _map(function, devices, donate_argnums=()):
    sharding = _sharding(devices)
    # The compiled form of `jax.pmap` takes the arrays of one host only.
    backend = _pmap if sharding.is_fully_addressable else _shard_map
    return _compiled_per_shape(backend(function, devices, donate_argnums), sharding)


def _pmap(function, devices, donate_argnums):
    return jax.pmap(
        function, axis_name=AXIS, devices=devices, donate_argnums=donate_argnums
    )


def _shard_map(function, devices, donate_argnums):
    sharding = _sharding(devices)

    def on_device(*args):
        result = function(*jax.tree.map(lambda x: jnp.squeeze(x, 0), args))
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), result)

    return jax.jit(
        jax.shard_map(
            on_device,
            mesh=sharding.mesh,
            in_specs=sharding.spec,
            out_specs=sharding.spec,
            check_vma=False,  # gradients of collectives are those of `jax.pmap`
        ),
        in_shardings=sharding,
        out_shardings=sharding,
        donate_argnums=donate_argnums,
    )


def _compiled_per_shape(mapped, sharding):
    compiled = {}

    def run(*args):
        if not sharding.is_fully_addressable:
            args = jax.tree.map(functools.partial(_to_global, sharding), args)
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple(map(jax.typeof, leaves))
        if key not in compiled:
            compiled[key] = mapped.lower(*args).compile(_compiler_options())
            _give_back_memory()
        return compiled[key](*args)

    return run


def _to_global(sharding, array):
    """Makes a global array of this host's rows; leaves global arrays as they are."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def _all_devices():
    """All devices, those of the first host first, as `gather_over_hosts` orders."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def _sharding(devices: Sequence[jax.Device]) -> NamedSharding:
    """The leading axis is split over devices."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def _compiler_options():
    """Returns options of the XLA compiler that differ from its defaults."""
    if jax.default_backend() != "cpu":
        return None
    # Not YNNPACK for products of matrices: Eigen is about a fifth faster, and up to
    # twice with few rows, as in a recurrence.
    ynnpack = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    return {"xla_cpu_experimental_ynn_fusion_type": ynnpack}


def _give_back_memory():
    """Returns to the system what the C library keeps after a compilation.

    For the paper's model that is half a gigabyte, which would add to every step's own.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # it is glibc's alone
        trim(0)


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


def replicate(tree: Any) -> Any:
    """Puts a copy of a pytree of host arrays on every device.

    Args:
      tree: arrays, the same on every host.

    Returns:
      The arrays with a leading axis of devices, `[devices, ...]`.
    """
    return _copy_to(_all_devices(), tree)


def replicate_on_host(tree: Any) -> Any:
    """As `replicate`, for `map_over_local_devices`."""
    return _copy_to(jax.local_devices(), tree)


def _copy_to(devices, tree):
    """Copies a tree of host arrays to devices, with a leading axis of devices."""

    def copy(tree):
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (len(devices), *jnp.shape(x))), tree
        )

    # Compiled, since `jax.device_put` may share the memory of the host's arrays.
    return jax.jit(copy, out_shardings=_sharding(devices))(tree)


def unreplicate(tree: Any) -> Any:
    """Fetches the first device's copy of a replicated pytree to the host."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).squeeze(0), tree)


def shard(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits this host's rows, `[batch, ...]` to `[local_devices, rows, ...]`."""
    devices = jax.local_device_count()
    return {
        name: array.reshape(devices, -1, *array.shape[1:])
        for name, array in batch.items()
    }


def fetch_rows(array: jax.Array) -> np.ndarray:
    """Undoes `shard`, of what `map_over_local_devices` returned."""
    return np.asarray(array).reshape(-1, *array.shape[2:])


def gather_over_hosts(array: np.ndarray) -> np.ndarray:
    """Concatenates the hosts' `[rows, ...]` in order, as `gather` orders devices."""
    if jax.process_count() == 1:
        return array
    gathered = multihost_utils.process_allgather(array)
    return gathered.reshape(-1, *array.shape[1:])


def on_all_hosts(flag: bool) -> bool:
    """Returns whether `flag` is True on every host; all hosts must call it."""
    if is_single_host():
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def agree_to_stop(received: bool, step: int) -> bool:
    """Whether all hosts stop after `step`, since one or more received a signal.

    Args:
      received: whether this host received a signal. With several hosts JAX notes
        SIGTERM itself, so this need only be set for other signals.
      step: number of steps made, the same on all hosts.
    """
    if is_single_host():
        return received
    if received:
        signal.raise_signal(signal.SIGTERM)  # JAX's handler tells the other hosts
    # JAX's service agrees on a step that no host has passed yet.
    return multihost_utils.reached_preemption_sync_point(step)


def is_single_host() -> bool:
    """Whether there is no other host."""
    return jax.process_count() == 1


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have called it with the same `name`."""
    # Not a collective of the devices, which would time out within minutes.
    wait = ocp.multihost.get_barrier_sync_fn()
    key = f"vse_jax {name} {next(_barrier_number)}"
    wait(key=key, timeout_ms=1000 * BARRIER_TIMEOUT)


@contextlib.contextmanager
def primary_host_first(name: str) -> Iterator[None]:
    """Runs the body on the primary host first, then on the others.

    Args:
      name: the same on all hosts.
    """
    if not is_primary_host():
        wait_for_hosts(name)
    yield
    if is_primary_host():
        wait_for_hosts(name)


def this_host() -> dict[str, int]:
    """This host's index and the number of hosts, as the input pipeline's arguments."""
    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def is_primary_host() -> bool:
    """Whether this is the host that prints, and writes reports and curves."""
    return jax.process_index() == 0
