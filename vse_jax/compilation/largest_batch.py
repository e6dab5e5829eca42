"""Searches for the largest batch whose training steps fit the memory."""

import logging
import math
from collections.abc import Callable, Sequence

import ml_collections

from vse_jax.compilation import measured
from vse_jax.compilation.chips import GIB
from vse_jax.compilation.programs import train_programs
from vse_jax.compilation.topology import Topology
from vse_jax.data.sampling import largest_batch_size
from vse_jax.errors import InputError

logger = logging.getLogger(__name__)

_PRECISION = 1 / 16  # of the largest batch
_LARGEST_FACTOR = 4  # from the largest batch that fits to the next try


def check_images(config: ml_collections.ConfigDict) -> None:
    """Refuses a batch that a training refuses, as it has an image twice.

    Raises:
      InputError: naming the option that says how many images there are.
    """
    largest = _largest_of_images(config)
    if config.batch_size <= largest:
        return
    # A training has at least as many captions as images.
    option = min(("images", "pairs_per_epoch"), key=lambda name: config.compile[name])
    raise InputError(
        f"config.batch_size is {config.batch_size}, but config.compile.{option} is "
        f"{config.compile[option]}; expected at most {largest}, so that no batch "
        f"contains an image twice; set config.compile.{option} to that of your data"
    )


def _largest_of_images(config):
    compiled = config.compile
    return largest_batch_size(min(compiled.images, compiled.pairs_per_epoch))


def largest_batch(
    config: ml_collections.ConfigDict,
    topology: Topology,
    steps: Sequence[measured.Measured] = (),
) -> int:
    """Returns the largest batch whose training steps fit, to 1 part in 16.

    It is at most what `check_images` accepts. Each try compiles the step with the
    longest captions of each stage, which takes minutes for large batches. The first is
    `config.batch_size`.

    Args:
      config: see `configs/common.py`.
      topology: where the steps run.
      steps: all training steps of `config.batch_size`, which are not compiled again;
        or none of them.

    Returns:
      A multiple of the devices and the microbatches; 0 if not even one pair per device
      and microbatch fits.
    """

    def peak_bytes(size):
        if steps and size == config.batch_size:
            return _peak_bytes(size, steps)
        return _peak_bytes(size, _compiled(config, size, topology))

    step = len(topology.devices) * config.microbatches
    return search(
        peak_bytes,
        available=topology.chip.hbm_bytes,
        start=config.batch_size,
        step=step,
        too_large=(_largest_of_images(config) // step + 1) * step,
    )


def search(
    peak_bytes: Callable[[int], int | None],
    *,
    available: int,
    start: int,
    step: int,
    too_large: int | None = None,
) -> int:
    """Returns the largest size that fits, to 1 part in 16.

    Memory grows almost linearly with the size, from what does not depend on it, such as
    parameters, until it becomes scarce: then the compiler saves some at the cost of
    time, and memory hardly grows. So the search expects the limit where the line
    through the smallest and the largest size that fit reaches it, and tries a size just
    below and one just above. If that fails, it bisects.

    Args:
      peak_bytes: returns the memory that a size needs; None if it does not fit.
      available: bytes of memory.
      start: first size to try, a multiple of `step`.
      step: sizes are multiples of it.
      too_large: a multiple of `step` above `start` that is not to be tried, nor is
        anything larger; None if only the memory limits the size.

    Returns:
      A multiple of `step`; 0 if no size fits.
    """
    fitting = {}
    size = start
    while size not in fitting and size != too_large:
        peak = peak_bytes(size)
        if peak is None:
            too_large = size
        else:
            fitting[size] = peak
        size = _next_size(fitting, too_large, available, step)
    return max(fitting, default=0)


def _next_size(fitting, too_large, available, step):
    """Returns the next size to try; one that was tried ends the search."""
    fits = max(fitting, default=0)
    above = fits + max(step, int(fits * _PRECISION) // step * step)
    if too_large is not None and too_large <= above:
        return too_large
    below = int(_expected_limit(fitting, available) * (1 - _PRECISION / 2))
    size = max(below // step * step, above)
    if too_large is None or size < too_large:
        return size
    middle = math.sqrt(fits * too_large)
    return max(int(middle) // step * step, above)


def _expected_limit(fitting, available):
    """Returns where a line through smallest and largest size reaches `available`.

    With one size, it is a line through 0, which expects too little where some memory
    does not depend on the size.
    """
    if not fitting:
        return 0
    first, last = min(fitting), max(fitting)
    if first == last:
        return available / fitting[last] * last
    growth = (fitting[last] - fitting[first]) / (last - first)
    farthest = _LARGEST_FACTOR * last  # both sizes may be where memory is scarce
    if growth <= 0:
        return farthest
    return min(last + (available - fitting[last]) / growth, farthest)


def _compiled(config, size, topology):
    """Compiles the training steps that need the most memory."""
    config = config.copy_and_resolve_references()
    config.batch_size = size
    tried = train_programs(config, topology.devices, largest_only=True)
    return measured.measure_all(tried, topology)


def _peak_bytes(size, steps):
    """Returns the HBM that training steps need; None if one does not fit."""
    refused = [f"{one.program.name}: {one.refusal}" for one in steps if one.refusal]
    peak = max(one.peak_bytes for one in steps)
    logger.info(
        "largest batch: %d %s",
        size,
        f"does not fit: {refused[0]}"
        if refused
        else f"fits, peak {peak / GIB:.2f} GiB",
    )
    return None if refused else peak
