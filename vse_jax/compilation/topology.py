"""The devices of a TPU topology, as libtpu describes them without a TPU."""

import importlib.metadata
import importlib.util
import math
import os
import re
from typing import NamedTuple

from vse_jax import termination
from vse_jax.compilation.chips import CHIPS, Chip
from vse_jax.errors import InputError, one_line

EXAMPLES = ("v5e:2x2", "v5e:2x4", "v5e:4x8", "v6e:2x4", "v5p:2x2x1", "v4:2x2x1")
# libtpu reads these when it is loaded. Without them it waits for the metadata server of
# a TPU VM, or takes a lock that a training on the same machine holds.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "JAX_PLATFORMS": "cpu",  # arrays of this process
}


class Topology(NamedTuple):
    """TPU devices for which programs can be compiled.

    Attributes:
      name: such as `v5e:2x4`.
      devices: devices in the order of their hosts, as `parallel` uses them.
      chip: figures of one device: of a chip, or of its share of a chip.
    """

    name: str
    devices: list
    chip: Chip


def set_environment() -> None:
    """Sets the environment of libtpu. Call it before JAX is imported."""
    os.environ.update(ENVIRONMENT)


def get_topology(name: str) -> Topology:
    """Returns the topology `name`, such as `v5e:2x4`.

    Raises:
      InputError: if libtpu is not installed or does not know the topology.
    """
    kind, layout = _parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "--mode=compile needs libtpu, the TPU compiler, which also runs without a "
            f"TPU; install it with: pip install {_pinned_libtpu()} (on a TPU VM: pip "
            'install "jax[tpu]")'
        )
    devices = sorted(_devices(name, layout), key=lambda device: device.process_index)
    termination.end_at_sigterm()  # libtpu's own handler prints a stack trace
    chip = CHIPS[kind].shared_by(len(devices) // math.prod(layout))
    return Topology(name, devices, chip)


def _parse(name):
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)+)", name)
    layout = tuple(map(int, match[2].split("x"))) if match else ()
    if not match or match[1] not in CHIPS or len(layout) != CHIPS[match[1]].axes:
        problem = f"--topology is {name!r}" if name else "--topology is missing"
        raise InputError(
            f"{problem}; expected one of {', '.join(CHIPS)}, a colon and the layout of "
            f"the chips, such as {', '.join(EXAMPLES)}"
        )
    return match[1], layout


def _devices(name, layout):
    from jax.experimental import topologies

    def get(**options):
        return topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices

    try:
        try:
            return get()
        except RuntimeError as error:
            if "chips_per_host_bounds" not in str(error) or math.prod(layout) > 8:
                raise
            # It is a part of a host.
            return get(chips_per_host_bounds=(*layout, 1, 1)[:3])
    except RuntimeError as error:
        raise InputError(
            f"--topology is {name!r}, which libtpu does not know ({one_line(error)}); "
            f"known ones are {', '.join(EXAMPLES)}"
        ) from error


def _pinned_libtpu():
    """Returns the requirement of the installed JAX, such as "libtpu==0.0.42.*"."""
    for requirement in importlib.metadata.requires("jax") or ():
        if requirement.startswith("libtpu"):
            return f'"{requirement.partition(";")[0].strip()}"'
    return "libtpu"
