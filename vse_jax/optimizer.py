"""Optimizers and the learning-rate schedule, as published."""

import jax
import ml_collections
import optax

from vse_jax.errors import InputError
from vse_jax.stages import Stage

OPTIMIZERS = ("adam", "adamw")


def create_schedule(
    stage: Stage, decay_factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """The learning rate of a stage, by the number of steps since its beginning.

    It is constant but for being multiplied after each of the stage's decay epochs.
    """
    return optax.piecewise_constant_schedule(
        stage.learning_rate,
        {int(epoch * steps_per_epoch): decay_factor for epoch in stage.decay_epochs},
    )


def create_optimizer(
    settings: ml_collections.ConfigDict,
    schedule: optax.Schedule,
    train_backbone: bool = True,
) -> optax.GradientTransformation:
    """Clips the gradient's global norm, then takes a step of Adam or AdamW.

    Args:
      settings: `config.optimizer`.
      schedule: the learning rate by the number of steps.
      train_backbone: False leaves the backbone as it is, and keeps no state for it.

    Raises:
      InputError: if `settings.name` is not one of `OPTIMIZERS`.
    """
    if settings.name == "adamw":
        update = optax.adamw(schedule, weight_decay=settings.weight_decay)
    elif settings.name == "adam":
        update = optax.adam(schedule)
    else:
        raise InputError(
            f"config.optimizer.name is {settings.name!r}, "
            f"expected one of {', '.join(OPTIMIZERS)}"
        )
    if settings.gradient_clip:
        clip = optax.clip_by_global_norm(settings.gradient_clip)
        update = optax.chain(clip, update)
    if train_backbone:
        return update
    return optax.partition({True: optax.set_to_zero(), False: update}, _in_backbone)


def _in_backbone(params):
    """Of each parameter, whether it is one of the backbone's."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.DictKey("backbone") in path, params
    )
