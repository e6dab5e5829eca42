"""Optimizers and the learning-rate schedule, as published."""

import ml_collections
import optax

from vse_jax.errors import InputError

OPTIMIZERS = ("adam", "adamw")


def create_schedule(
    settings: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
    """A constant learning rate that is multiplied after each of the decay epochs."""
    return optax.piecewise_constant_schedule(
        settings.learning_rate,
        {
            int(epoch * steps_per_epoch): settings.decay_factor
            for epoch in settings.decay_epochs
        },
    )


def create_optimizer(
    settings: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Clips the gradient's global norm, then takes a step of Adam or AdamW.

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
    if not settings.gradient_clip:
        return update
    return optax.chain(optax.clip_by_global_norm(settings.gradient_clip), update)
