"""All that knows there is more than one device, or more than one host.

A step is written for one device, with the collectives below; `map_over_devices` runs it
on all of them with `jax.pmap`. Arrays that go into a mapped function carry a leading
axis of this host's devices, `[local_devices, ...]`.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow as tf
from etils import epath
from jax.experimental import multihost_utils

from vse_jax.errors import InputError, TrainingError, one_line

AXIS = "devices"


def set_up(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Prepares JAX for a run; to be called before anything else uses JAX.

    Connects the hosts, chooses the devices, and keeps what is compiled for the next
    start in `config.compilation_cache`, or beside the workdir.

    Raises:
      InputError: if there is no device of the kind that the configuration asks for.
    """
    tf.config.set_visible_devices([], "GPU")  # TensorFlow reads data, nothing else
    cache = (
        config.compilation_cache or epath.Path(workdir).parent / ".compilation_cache"
    )
    jax.config.update("jax_compilation_cache_dir", str(epath.Path(cache).expanduser()))
    if config.dtype == "float32":
        # TPUs would multiply in bfloat16 all the same.
        jax.config.update("jax_default_matmul_precision", "float32")
    if config.distributed:
        _connect_hosts()
    select_platform(config.platform)


def _connect_hosts():
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"config.distributed is set, but the hosts of a pod cannot be connected "
            f"({one_line(error)}); leave it unset on a single host"
        ) from error


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
    """Runs per-device code on all devices, compiled once per shape of its arguments."""
    mapped = jax.pmap(function, axis_name=AXIS, donate_argnums=donate_argnums)
    return _compiled_per_shape(mapped, function)


def map_over_local_devices(function: Callable) -> Callable:
    """Runs per-device code without collectives on the devices of this host.

    So hosts need not make the same calls. Compiled once per shape of the arguments.
    """
    mapped = jax.pmap(function, devices=jax.local_devices())
    return _compiled_per_shape(mapped, function)


def _compiled_per_shape(mapped, function):
    compiled = {}

    @functools.wraps(function)
    def run(*args):
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple(map(jax.typeof, leaves))
        if key not in compiled:
            compiled[key] = mapped.lower(*args).compile(_compiler_options())
            _give_back_memory()
        return compiled[key](*args)

    return run


def _compiler_options():
    """What XLA is told beyond its defaults."""
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
    """Puts one copy of a pytree of host arrays on each of this host's devices."""
    copy = jax.pmap(lambda _, tree: tree, in_axes=(0, None))
    return copy(np.arange(jax.local_device_count()), tree)


def replicate_on_host(tree: Any) -> Any:
    """As `replicate`, for `map_over_local_devices`."""
    devices = jax.local_devices()
    copy = jax.pmap(lambda _, tree: tree, in_axes=(0, None), devices=devices)
    return copy(np.arange(len(devices)), tree)


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


def agree_to_stop(received: bool, step: int) -> bool:
    """Whether the hosts stop after `step`, of which one or more were told to.

    Args:
      received: whether this host was told to stop.
      step: number of steps made, the same on all hosts.
    """
    if jax.process_count() == 1:
        return received
    # JAX's own service agrees on a step that no host has passed yet.
    return multihost_utils.reached_preemption_sync_point(step)


def is_single_host() -> bool:
    """Whether there is no other host."""
    return jax.process_count() == 1


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have come here; `name` is the same on all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def primary_host_first(name: str) -> Iterator[None]:
    """Lets the primary host do what stands inside before the others do it.

    Args:
      name: the same on all hosts.
    """
    if not is_primary_host():
        wait_for_hosts(name)
    yield
    if is_primary_host():
        wait_for_hosts(name)


def this_host() -> dict[str, int]:
    """Which host this is, and of how many, as arguments of the input pipeline."""
    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def is_primary_host() -> bool:
    """Whether this is the one host that writes reports and curves."""
    return jax.process_index() == 0
