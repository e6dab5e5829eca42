"""Stages of a training: each with its epochs, learning rate and trained parameters."""

from typing import NamedTuple

import ml_collections


class Stage(NamedTuple):
    """A stretch of steps that share an optimizer and its state.

    Attributes:
      start: its first step, counted from 0 over the whole training.
      stop: the step behind its last.
      learning_rate: at its beginning.
      decay_epochs: of this stage, after which the learning rate is multiplied.
      train_backbone: whether the backbone is trained.
    """

    start: int
    stop: int
    learning_rate: float
    decay_epochs: tuple[float, ...]
    train_backbone: bool


def plan_stages(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> tuple[Stage, ...]:
    """Returns the stages that `config` describes, in their order."""
    first = ml_collections.ConfigDict(
        {
            "epochs": config.epochs,
            "learning_rate": config.optimizer.learning_rate,
            "decay_epochs": config.optimizer.decay_epochs,
            "train_backbone": config.model.backbone.trainable,
        }
    )
    stages, start = [], 0
    for options in (first, *config.fine_tuning):
        stop = start + options.epochs * steps_per_epoch
        stages.append(
            Stage(
                start,
                stop,
                options.learning_rate,
                options.decay_epochs,
                options.train_backbone,
            )
        )
        start = stop
    return tuple(stages)


def stage_of(stages: tuple[Stage, ...], step: int) -> Stage:
    """Returns the stage to which a step belongs, the last for steps beyond it."""
    return next((stage for stage in stages if step < stage.stop), stages[-1])
