"""The programs that a run of a configuration executes."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from vse_jax import parallel, parameter_groups
from vse_jax.compilation import shapes
from vse_jax.compilation.resident import resident_features
from vse_jax.data.batch_options import token_lengths
from vse_jax.experiment import Experiment
from vse_jax.stage_steps import StageSteps
from vse_jax.stages import Stage, plan_stages
from vse_jax.train_step import init_variables, make_embed_steps

PROGRAMS = ("train", "images", "captions")


class Program(NamedTuple):
    """A step on the devices of a topology, and the shapes of its arguments.

    Attributes:
      name: such as `train, 24 tokens`.
      mapped: takes the state or the variables, and a batch that is split.
      state: shapes of the first argument.
      batch: shapes of the batch, `[batch, ...]` over all devices.
      arguments: shapes of the second argument, on the devices.
      epochs: epochs for which it runs; 0 if it does not train.
      other_bytes: memory of a device that other arrays occupy.
    """

    name: str
    mapped: parallel.Mapped
    state: Any
    batch: shapes.Shapes
    arguments: shapes.Shapes
    epochs: int = 0
    other_bytes: int = 0

    @property
    def size(self) -> int:
        """Pairs, images or captions of the global batch."""
        return next(iter(self.batch.values())).shape[0]

    @property
    def tokens(self) -> int:
        """Tokens per caption; 0 without captions."""
        return self.batch["tokens"].shape[-1] if "tokens" in self.batch else 0

    @property
    def steps_of_sequences(self) -> int:
        """Most steps that a recurrence over words or regions makes; at least 1."""
        regions = self.batch["regions"].shape[1] if "regions" in self.batch else 1
        return max(self.tokens, regions)

    def lower(self) -> jax.stages.Lowered:
        """Returns the program."""
        return self.mapped.lower(self.state, self.arguments)


def programs(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device]
) -> list[Program]:
    """Returns the programs of `config.compile.programs`.

    Args:
      config: see `configs/common.py`.
      devices: devices of a topology.

    Raises:
      InputError: if the pattern of a parameter group matches nothing.
    """
    wanted, size = config.compile.programs, config.evaluation_batch_size
    found = train_programs(config, devices) if "train" in wanted else []
    embed_images, embed_captions = (
        parallel.map_over_devices(
            step,
            (parallel.REPLICATED, parallel.SPLIT),
            parallel.REPLICATED,
            devices=devices,
            backend="shard_map",
        )
        for step in make_embed_steps(_experiment(config).create_model(train=False))
    )
    variables = _variables(config)
    # The table of the training remains in memory.
    resident = resident_features(config, len(devices))
    other_bytes = resident.device_bytes if resident else 0

    def add(name, step, batch):
        arguments = parallel.shapes_of_rows(batch, devices)
        program = Program(name, step, variables, batch, arguments)
        found.append(program._replace(other_bytes=other_bytes))

    if "images" in wanted:
        add("embed images", embed_images, shapes.image_batch(config, size))
    for length in token_lengths(config) if "captions" in wanted else ():
        batch = shapes.caption_batch(size, length)
        add(f"embed {length} tokens", embed_captions, batch)
    return found


def train_programs(
    config: ml_collections.ConfigDict,
    devices: Sequence[jax.Device],
    *,
    largest_only: bool = False,
) -> list[Program]:
    """Returns the training steps of all stages, minings and lengths.

    Args:
      config: see `configs/common.py`.
      devices: devices of a topology.
      largest_only: whether to return only those that need the most memory: those with
        the longest captions and the last mining of each stage.
    """
    steps_per_epoch = max(1, config.compile.pairs_per_epoch // config.batch_size)
    stages = plan_stages(config, steps_per_epoch)
    lengths, found = token_lengths(config), []
    resident = resident_features(config, len(devices))
    for number, stage in enumerate(stages):
        steps = _stage_steps(config, stage, steps_per_epoch, devices, resident)
        minings = steps.minings_from(stage.start)
        words = ["train", f"stage {number + 1}" if len(stages) > 1 else ""]
        for mining in minings[-1:] if largest_only else minings:
            of_mining = [*words, mining if len(minings) > 1 else ""]
            for length in lengths[-1:] if largest_only else lengths:
                name = ", ".join([*filter(None, of_mining), f"{length} tokens"])
                batch = shapes.train_batch(config, config.batch_size, length)
                state = steps.state_shapes(batch)
                arguments = (
                    resident.arguments(batch, devices)
                    if resident
                    else parallel.shapes_of_rows(batch, devices)
                )
                epochs = (stage.stop - stage.start) // steps_per_epoch
                step = steps.mapped(mining)
                found.append(Program(name, step, state, batch, arguments, epochs))
    return found


def _stage_steps(config, stage: Stage, steps_per_epoch, devices, resident):
    params = _variables(config)["params"]
    parameter_groups.check_matches(stage.groups, stage.option, params)
    return StageSteps(
        _experiment(config),
        stage,
        steps_per_epoch,
        train_backbone=not stage.freezes_backbone(params),
        devices=devices,
        in_step=resident.in_step if resident else lambda step: step,
    )


def _experiment(config):
    """Returns an experiment without a dataset, of which only the model is used."""
    # Of the vocabulary, only the length is used.
    return Experiment(config, None, range(config.compile.vocabulary_size))


def _variables(config):
    """Returns the shapes of the model's variables."""
    model = _experiment(config).create_model(train=False)
    batch = shapes.train_batch(config, 1, token_lengths(config)[0])
    init = functools.partial(init_variables, model, seed=config.seed, loss=config.loss)
    return jax.eval_shape(init, batch)
