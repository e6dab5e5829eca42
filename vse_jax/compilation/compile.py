"""--mode=compile: the cost of a configuration's programs on a topology."""

import json
from collections.abc import Sequence

import jax
import ml_collections
from etils import epath

from vse_jax import files, parallel, run_config, starting_point
from vse_jax.compilation import measured, report
from vse_jax.compilation.largest_batch import check_images, largest_batch
from vse_jax.compilation.programs import PROGRAMS, programs
from vse_jax.compilation.resident import check_fits, resident_features
from vse_jax.compilation.topology import get_topology
from vse_jax.errors import InputError, reporting_writes
from vse_jax.experiment import check_text_tower


def compile_programs(
    config: ml_collections.ConfigDict,
    topology_name: str,
    *,
    output: str = "",
    find_largest_batch: bool = False,
) -> None:
    """Compiles the programs of a run and prints what they cost.

    No dataset and no TPU are used.

    Args:
      config: see `configs/common.py`.
      topology_name: such as `v5e:2x4`.
      output: JSON file to write; "" for none.
      find_largest_batch: whether to search for the largest batch that fits.

    Raises:
      InputError: if an option is invalid, libtpu is absent, or a program does not fit
        the memory of a device.
    """
    config, vocabulary = starting_point.complete(config, run=None)
    if vocabulary is not None:
        config.compile.vocabulary_size = len(vocabulary)
    config.dtype = config.dtype or "bfloat16"
    check_options(config)
    if not config.model.text_weights:  # which have a vocabulary of their own
        _check_vocabulary(config)
    files.check_output(output)
    if config.dtype == "float32":
        # As in `parallel.set_up`: TPUs would multiply in bfloat16 otherwise.
        jax.config.update("jax_default_matmul_precision", "float32")
    topology = get_topology(topology_name)
    devices = len(topology.devices)
    parallel.check_batches(config, devices)
    check_images(config)
    resident = resident_features(config, devices)
    check_fits(resident, topology)
    results = measured.measure_all(programs(config, topology.devices), topology)
    print(report.table(results, topology, config), flush=True)
    if resident:
        share = 100 * resident.device_bytes / topology.chip.hbm_bytes
        print(f"features: {resident.arithmetic()}, {share:.1f} % of the HBM")
    described = report.as_json(results, topology, config)
    if find_largest_batch:
        steps = [one for one in results if one.program.epochs]
        largest = largest_batch(config, topology, steps)
        described["largest_batch"] = largest
        print(f"largest batch that fits: {largest}", flush=True)
    if output:
        _write(described, output)
    refuse([one for one in results if one.refusal])


def check_options(config: ml_collections.ConfigDict) -> None:
    """Checks the options, also those that no other mode reads.

    Raises:
      InputError: if an option is invalid; names it and the expected values.
    """
    run_config.check_options(config)
    for option in ("vocabulary_size", "regions", "dim", "images", "pairs_per_epoch"):
        if not 1 <= config.compile[option] < 2**31:
            raise InputError(
                f"config.compile.{option} is {config.compile[option]}; expected at "
                f"least 1 and less than {2**31}"
            )
    chosen = config.compile.programs
    if not chosen or not set(chosen) <= set(PROGRAMS):
        raise InputError(
            f"config.compile.programs is {chosen!r}; expected a tuple of "
            f"{', '.join(map(repr, PROGRAMS))}"
        )


def _check_vocabulary(config):
    """Refuses a text transformer that a training refuses with this vocabulary."""
    tokens = config.compile.vocabulary_size
    try:
        check_text_tower(config.model, tokens)
    except InputError as error:
        where = f"config.compile.vocabulary_size is {tokens}"
        raise InputError(f"{where}: {error}") from None


def _write(described, output):
    path = epath.Path(output).expanduser()
    with reporting_writes(output), files.unfinished(path) as unfinished:
        unfinished.write_text(json.dumps(described, indent=2) + "\n")
    print(f"written: {output}", flush=True)


def refuse(refused: Sequence[measured.Measured]) -> None:
    """Raises an InputError if there are programs that do not fit."""
    if not refused:
        return
    one, others = refused[0], len(refused) - 1
    more = f" ({others} other programs do not fit either)" if others else ""
    option = "batch_size" if one.program.epochs else "evaluation_batch_size"
    raise InputError(
        f"{one.program.name}: {one.refusal}{more}; set config.{option} to less than "
        f"{one.program.size}, or choose a topology with more devices"
    )
