"""Training stages, each with its epochs, learning rate and parameter groups."""

import math
from typing import Any, NamedTuple

import jax
import ml_collections

from vse_jax import parameter_groups
from vse_jax.errors import InputError
from vse_jax.models.vse import backbone_of, text_tower_of
from vse_jax.parameter_groups import Groups


class Stage(NamedTuple):
    """Consecutive steps that share an optimizer and its state.

    Attributes:
      start: first step, counted from 0 over the whole training.
      stop: one past the last step.
      learning_rate: initial learning rate.
      decay_epochs: epochs of this stage after which the learning rate decays.
      groups: parameter groups.
      schedule: one of `optimizer.SCHEDULES`.
      warmup_epochs: epochs of this stage in which the learning rate rises.
      option: option that lists the groups, such as `optimizer.groups`, for messages.
    """

    start: int
    stop: int
    learning_rate: float
    decay_epochs: tuple[float, ...]
    groups: Groups = ()
    schedule: str = "steps"
    warmup_epochs: float = 0.0
    option: str = "optimizer.groups"

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Returns the number of steps in which the learning rate rises."""
        return step_of_epoch(self.warmup_epochs, steps_per_epoch)

    def freezes_backbone(self, params: Any) -> bool:
        """Returns whether every parameter of the backbone is frozen.

        Args:
          params: parameters of the model, or their shapes.
        """
        if not self.groups:
            return False
        of_backbone = backbone_of(parameter_groups.frozen(self.groups, params))
        return all(jax.tree.leaves(of_backbone))


def step_of_epoch(epoch: float, steps_per_epoch: int) -> int:
    """Returns the step at which an epoch, which may be fractional, has passed."""
    # Round first: 0.29 * 100 is slightly less than 29 in binary floating point.
    return int(round(epoch * steps_per_epoch, 6))


def plan_stages(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> tuple[Stage, ...]:
    """Returns the stages that `config` describes, in order.

    Raises:
      InputError: if no step is left for a cosine after the warm-up of a stage, or if
        there are more steps than can be counted; names the option.
    """
    optimizer = config.optimizer
    first = Stage(
        start=0,
        stop=config.epochs * steps_per_epoch,
        learning_rate=optimizer.learning_rate,
        decay_epochs=optimizer.decay_epochs,
        groups=optimizer.groups,
        schedule=optimizer.schedule,
        warmup_epochs=optimizer.warmup_epochs,
    )
    stages = [first]
    for number, options in enumerate(config.fine_tuning):
        start = stages[-1].stop
        stage = Stage(
            start=start,
            stop=start + options.epochs * steps_per_epoch,
            learning_rate=options.learning_rate,
            decay_epochs=options.decay_epochs,
            groups=options.groups,
            schedule=options.schedule,
            warmup_epochs=options.warmup_epochs,
            option=f"fine_tuning[{number}].groups",
        )
        stages.append(stage)
    for stage in stages:
        _check_steps_of_cosine(stage, steps_per_epoch)
    if stages[-1].stop >= 2**31:  # the state counts its steps in an int32
        raise InputError(
            f"config.epochs is {config.epochs}, and all stages have "
            f"{stages[-1].stop:,} steps; expected fewer than {2**31:,}, which are "
            f"{(2**31 - 1) // steps_per_epoch:,} epochs"
        )
    return tuple(stages)


def _check_steps_of_cosine(stage, steps_per_epoch):
    """The number of steps is not known when the options are checked."""
    steps = stage.stop - stage.start
    if stage.schedule != "cosine" or stage.warmup_steps(steps_per_epoch) < steps:
        return
    option = stage.option.removesuffix("groups") + "warmup_epochs"
    raise InputError(
        f"config.{option} is {stage.warmup_epochs!r}, which is all {steps} steps of "
        "the stage, so that none is left for schedule='cosine'; expected at most "
        f"{math.floor(100 * (steps - 1) / steps_per_epoch) / 100} epochs"
    )


def check_groups(
    stages: tuple[Stage, ...], params: Any, model: ml_collections.ConfigDict | None
) -> None:
    """Checks that the parameter groups fit the model.

    Args:
      stages: all stages, so that a mistake in the last one is reported at once.
      params: parameters of the model, or their shapes.
      model: `config.model`, which names pretrained weights; None if all parameters
        are those of another model.

    Raises:
      InputError: if they do not fit; names the pattern or the option to set.
    """
    for stage in stages:
        parameter_groups.check_matches(stage.groups, stage.option, params)
    if model is None:
        return
    frozen = parameter_groups.frozen(stages[0].groups, params)
    for name, part, option, weights in (
        ("backbone", backbone_of, "backbone.weights", model.backbone.weights),
        ("text transformer", text_tower_of, "text_weights", model.text_weights),
    ):
        if any(jax.tree.leaves(part(frozen))) and not weights:
            raise InputError(
                f"config.{stages[0].option} freezes parameters of the {name}, which "
                f"has no pretrained weights; set config.model.{option} to a file or "
                "folder of weights, or to a Python package that ships one"
            )


def stage_of(stages: tuple[Stage, ...], step: int) -> Stage:
    """Returns the stage that contains `step`, or the last stage for later steps."""
    return next((stage for stage in stages if step < stage.stop), stages[-1])
