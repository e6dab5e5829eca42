"""Prepares JAX for a run, and checks what the devices can take."""

import contextlib
import logging
from collections.abc import Iterator

import jax
import ml_collections
import tensorflow as tf
from etils import epath

from vse_jax import host_connection
from vse_jax.errors import InputError, TrainingError, one_line
from vse_jax.parallel.hosts import is_primary_host


def set_up(
    config: ml_collections.ConfigDict, workdir: str, *, preemptible: bool = False
) -> None:
    """Prepares JAX for a run. Call it before anything else uses JAX.

    Connects the hosts, selects the devices, and sets JAX's compilation cache to
    `config.compilation_cache`, or to a folder beside the workdir. If `config.dtype` is
    empty, sets it to the dtype that suits the devices. Only the primary host logs.

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
    host_connection.connect(config, preemptible=preemptible)
    select_platform(config.platform)
    if not config.dtype:
        config.dtype = "bfloat16" if jax.default_backend() == "tpu" else "float32"
    if config.dtype == "float32":
        # TPUs would multiply in bfloat16 all the same.
        jax.config.update("jax_default_matmul_precision", "float32")
    if not is_primary_host():
        logging.getLogger("vse_jax").setLevel(logging.CRITICAL)


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
