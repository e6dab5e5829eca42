"""Prepares JAX for a run, and checks what the devices can take."""

import collections
import contextlib
import glob
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator

import jax
import ml_collections
import tensorflow as tf
from etils import epath
from jax.experimental import multihost_utils

from vse_jax.errors import (
    InputError,
    TrainingError,
    is_lack_of_device_memory,
    one_line,
)
from vse_jax.parallel import program_cache
from vse_jax.parallel.hosts import is_primary_host, is_single_host


def set_up(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Prepares JAX for a run, after `host_connection.connect`.

    Selects the devices, and sets JAX's compilation cache to
    `config.compilation_cache`, else to JAX's variable of the environment, else to a
    folder beside the workdir. If `config.dtype` is empty, sets it to the dtype that
    suits the devices. Only the primary host logs and prints.

    Args:
      config: see `configs/common.py`.
      workdir: folder of the run.

    Raises:
      InputError: if there is no device of `config.platform`, or if the hosts have
        different numbers of devices.
    """
    tf.config.set_visible_devices([], "GPU")  # TensorFlow reads data, nothing else
    cache = (
        config.compilation_cache
        or os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or epath.Path(workdir).parent / ".compilation_cache"
    )
    program_cache.use_folder(epath.Path(cache).expanduser())
    select_platform(config.platform)
    if not config.dtype:
        config.dtype = "bfloat16" if jax.default_backend() == "tpu" else "float32"
    if config.dtype == "float32":
        # TPUs would multiply in bfloat16 all the same.
        jax.config.update("jax_default_matmul_precision", "float32")
    if not is_single_host():
        _check_devices_of_hosts()
        _let_primary_host_print()


def _check_devices_of_hosts():
    """Refuses hosts with different numbers of devices, without any collective."""
    # Every host knows the devices of all, so all find the same.
    counts = collections.Counter(device.process_index for device in jax.devices())
    for host in range(jax.process_count()):
        if counts[host] != counts[0]:
            raise InputError(
                f"host {host} has {counts[host]} devices, host 0 has {counts[0]}; "
                "start all hosts with equally many, which CUDA_VISIBLE_DEVICES limits "
                "on hosts with GPUs"
            )


def _let_primary_host_print():
    """Silences the log and the standard output of all hosts but the primary one.

    Libraries write to standard output too: Gloo, when it connects the hosts of CPUs.
    """
    sys.stdout.flush()
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    multihost_utils.sync_global_devices("vse_jax is set up")
    if is_primary_host():
        os.dup2(output, 1)
    else:
        logging.getLogger("vse_jax").setLevel(logging.CRITICAL)
    os.close(output)


def select_platform(platform: str) -> None:
    """Makes JAX use devices of one kind; to be called before anything else uses JAX.

    Args:
      platform: `cpu`, `gpu`, `tpu`, or empty for the best there is.

    Raises:
      InputError: if there is no such device.
    """
    if platform not in ("", "cpu", "gpu", "tpu"):
        raise InputError(
            f"config.platform is {platform!r}; expected cpu, gpu, tpu or nothing"
        )
    if platform in ("cpu", "tpu"):  # a GPU may be of several platforms of JAX
        jax.config.update("jax_platforms", platform)
    elif not platform and not jax.config.jax_platforms and _has_only_cpus():
        # JAX would try libtpu if it is installed, which prints why it finds no TPU.
        jax.config.update("jax_platforms", "cpu")
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        found = one_line(error)
    if platform and platform != found:
        raise InputError(
            f"config.platform is {platform!r}, but JAX finds no such device "
            f"({found}); install JAX for it, or leave config.platform empty"
        )


def _has_only_cpus():
    """Whether no TPU's device file exists, and no plugin of another device."""
    tpus = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not tpus and not plugins and not importlib.util.find_spec("jax_plugins")


def check_batches(
    config: ml_collections.ConfigDict, devices: int | None = None
) -> None:
    """Checks the sizes of training and evaluation batches, and the microbatches.

    Args:
      config: see `configs/common.py`.
      devices: number of devices; None for all that JAX finds.

    Raises:
      InputError: see `check_batch_size` and `check_microbatches`.
    """
    check_batch_size(config.batch_size, "batch_size", devices)
    check_microbatches(config.microbatches, config.batch_size, devices)
    check_batch_size(config.evaluation_batch_size, "evaluation_batch_size", devices)


def check_batch_size(batch_size: int, name: str, devices: int | None = None) -> None:
    """Refuses a global batch that the devices do not divide.

    Args:
      batch_size: rows over all devices.
      name: option of the batch size.
      devices: number of devices; None for all that JAX finds.

    Raises:
      InputError: naming the option and valid batch sizes.
    """
    devices = devices or jax.device_count()
    if batch_size < 1 or batch_size % devices:
        above = max(1, -(-batch_size // devices)) * devices
        below = max(devices, above - devices)
        nearby = " or ".join(map(str, sorted({below, above})))
        raise InputError(
            f"config.{name} is {batch_size}, which {devices} devices do not divide; "
            f"set it to {nearby}"
        )


def check_microbatches(
    microbatches: int, batch_size: int, devices: int | None = None
) -> None:
    """Refuses microbatches that do not divide the pairs of a device.

    Args:
      microbatches: `config.microbatches`.
      batch_size: `config.batch_size`, which the devices divide.
      devices: number of devices; None for all that JAX finds.

    Raises:
      InputError: naming the nearest valid numbers.
    """
    devices = devices or jax.device_count()
    pairs = batch_size // devices
    if microbatches >= 1 and pairs % microbatches == 0:
        return
    below = range(min(microbatches - 1, pairs), 0, -1)
    above = range(max(microbatches, 0) + 1, pairs + 1)
    nearest = [
        next((number for number in numbers if pairs % number == 0), None)
        for numbers in (below, above)
    ]
    raise InputError(
        f"config.microbatches is {microbatches}, which does not divide the {pairs} "
        f"pairs of config.batch_size={batch_size} on each of {devices} devices; set it "
        f"to {' or '.join(str(number) for number in nearest if number)}"
    )


@contextlib.contextmanager
def reporting_memory(
    batch_size: int, name: str, microbatches: int = 0
) -> Iterator[None]:
    """Turns a device's lack of memory into an error that says what to try.

    Args:
      batch_size: global, that of the work inside.
      name: of the option that says so.
      microbatches: `config.microbatches`; 0 if the work inside has none.

    Raises:
      TrainingError: with the batch size, or the number of microbatches, to try.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_lack_of_device_memory(error):
            raise
        devices = jax.device_count()
        ways = []
        if microbatches and batch_size // devices % (2 * microbatches) == 0:
            ways.append(f"--config.microbatches={2 * microbatches}")
        if smaller := batch_size // 2 // devices * devices:
            ways.append(f"--config.{name}={smaller}")
        advice = (
            f"try {' or '.join(ways)}"
            if ways
            else "use a smaller model or more devices"
        )
        raise TrainingError(
            f"out of memory with config.{name}={batch_size} on {devices} devices "
            f"({one_line(error)}); {advice}"
        ) from error
