"""The programs that a run of a configuration executes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vse_jax import parallel, parameter_groups
from vse_jax.compilation import shapes
from vse_jax.models.vse import create_model
from vse_jax.optimizer import create_optimizer, create_schedule
from vse_jax.stages import Stage, plan_stages
from vse_jax.train_step import (
    TrainState,
    create_train_state,
    init_variables,
    make_embed_steps,
    make_train_step,
)

PROGRAMS = ("train", "images", "captions")


class Program(NamedTuple):
    """Per-device code and the shapes of its global arguments.

    Attributes:
      name: such as `train, 24 tokens`.
      function: takes the state or the variables, which all devices hold, and a batch,
        which is split over them.
      state: shapes of the first argument.
      batch: shapes of the second.
      updates: whether the result begins with a new state, as in training.
      size: pairs, images or captions of the global batch.
      epochs: epochs for which it runs; 0 if it does not train.
      time: tokens per caption; 0 without captions.
    """

    name: str
    function: Callable
    state: Any
    batch: shapes.Shapes
    updates: bool
    size: int
    epochs: int = 0
    time: int = 0


def programs(config: ml_collections.ConfigDict) -> list[Program]:
    """Returns the programs of `config.compile.programs`.

    Raises:
      InputError: if the pattern of a parameter group matches nothing.
    """
    wanted = config.compile.programs
    found = train_programs(config) if "train" in wanted else []
    embed_images, embed_captions = make_embed_steps(_model(config, train=False))
    variables, size = _variables(config), config.evaluation_batch_size
    if "images" in wanted:
        batch = shapes.image_batch(config, size)
        found.append(
            Program("embed images", embed_images, variables, batch, False, size)
        )
    for time in _lengths(config) if "captions" in wanted else ():
        batch, name = shapes.caption_batch(size, time), f"embed captions, {time} tokens"
        found.append(
            Program(name, embed_captions, variables, batch, False, size, time=time)
        )
    return found


def train_programs(
    config: ml_collections.ConfigDict, *, largest_only: bool = False
) -> list[Program]:
    """Returns the training steps of all stages, minings and lengths.

    Args:
      config: see `configs/common.py`.
      largest_only: whether to return only those that need the most memory: the longest
        captions, with the mining after the warm-up.
    """
    steps_per_epoch = max(1, config.compile.pairs_per_epoch // config.batch_size)
    stages = plan_stages(config, steps_per_epoch)
    lengths, loss = _lengths(config), config.loss
    minings = [loss.mining]
    if largest_only:
        lengths = lengths[-1:]
    elif loss.warmup_mining not in ("", loss.mining):
        minings = [loss.warmup_mining, loss.mining]
    found = []
    for number, stage in enumerate(stages):
        create_state, make_step = _stage(config, stage, steps_per_epoch)
        for mining in minings:
            words = [
                "train",
                f"stage {number + 1}" if len(stages) > 1 else "",
                f"mining {mining}" if len(minings) > 1 else "",
            ]
            for time in lengths:
                batch = shapes.train_batch(config, config.batch_size, time)
                program = Program(
                    ", ".join([*filter(None, words), f"{time} tokens"]),
                    make_step(mining),
                    jax.eval_shape(create_state, batch),
                    batch,
                    True,
                    config.batch_size,
                    (stage.stop - stage.start) // steps_per_epoch,
                    time,
                )
                found.append(program)
    return found


def _stage(config, stage: Stage, steps_per_epoch):
    """Returns what creates the state of a stage, and its step of a mining."""
    params = _variables(config)["params"]
    parameter_groups.check_matches(stage.groups, stage.option, params)
    schedule = create_schedule(stage, config.optimizer.decay_factor, steps_per_epoch)
    optimizer = create_optimizer(config.optimizer, schedule, stage.groups)
    train_backbone = not stage.freezes_backbone(params)
    model = _model(config, train=True, train_backbone=train_backbone)

    def create_state(batch: dict) -> TrainState:
        return create_train_state(model, optimizer, batch, config.seed)

    def make_step(mining: str) -> Callable:
        return make_train_step(
            model,
            optimizer,
            lambda step: schedule(step - stage.start),
            config.loss,
            mining,
            stage.groups,
        )

    return create_state, make_step


def _model(config, **options):
    return create_model(
        config,
        config.compile.vocabulary_size,
        sum_over_devices=parallel.sum_over_devices,
        **options,
    )


def _variables(config):
    """Returns the shapes of the model's variables."""
    batch = shapes.train_batch(config, 1, _lengths(config)[0])
    init = functools.partial(init_variables, _model(config, train=False))
    return jax.eval_shape(init, batch, jnp.int32(config.seed))


def _lengths(config):
    return sorted(set(config.data.token_lengths))
