"""Optimizers and learning-rate schedules."""

import functools

import jax.numpy as jnp
import ml_collections
import optax

from vse_jax import parameter_groups
from vse_jax.parameter_groups import Groups
from vse_jax.sharded_optimizer import clip_by_norm_of_parts
from vse_jax.stages import Stage, step_of_epoch

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("steps", "cosine")


def create_schedule(
    stage: Stage, decay_factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the learning rate of a stage by the number of steps since its start.

    With the schedule `steps`, the rate is constant except that it is multiplied by
    `decay_factor` once for each decay epoch that has passed. An epoch may be
    fractional; it is rounded down to a step. Decay epochs that fall on the same step
    all count. A decay epoch of 0 applies from the first step. A decay epoch at or after
    the end of the stage has no effect.

    With `cosine`, the rate falls from the end of the warm-up along half a cosine, and
    would be 0 one step after the stage. Decay epochs have no effect.

    During the warm-up of `n` steps, step `i`, counted from 1, has `i / n` of the rate.

    Args:
      stage: stage with its learning rate, schedule, warm-up and decay epochs.
      decay_factor: factor of the learning rate at a decay epoch.
      steps_per_epoch: number of steps per epoch.
    """
    steps, warmup = stage.stop - stage.start, stage.warmup_steps(steps_per_epoch)
    if stage.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(stage.learning_rate, steps - warmup)
        decay = optax.join_schedules(
            [lambda step: stage.learning_rate, cosine], [warmup]
        )
    else:
        decay = _decay_in_steps(stage, decay_factor, steps_per_epoch)
    if not warmup:
        return decay
    return lambda step: jnp.minimum(1, (step + 1) / warmup) * decay(step)


def _decay_in_steps(stage, decay_factor, steps_per_epoch):
    scales = {}
    for epoch in stage.decay_epochs:
        step = step_of_epoch(epoch, steps_per_epoch)
        if step < stage.stop - stage.start:
            scales[step] = scales.get(step, 1.0) * decay_factor
    return optax.piecewise_constant_schedule(stage.learning_rate, scales)


def create_optimizer(
    settings: ml_collections.ConfigDict,
    schedule: optax.Schedule,
    groups: Groups = (),
) -> optax.GradientTransformation:
    """Returns Adam or AdamW, preceded by clipping of the gradient's global norm.

    Args:
      settings: `config.optimizer`; its groups are ignored. If `sharded`, updates are
        for `sharded_optimizer.update`.
      schedule: learning rate by the number of steps.
      groups: parameter groups. A group's learning rate is a factor of the schedule,
        which scales AdamW's weight decay too. Without a weight decay of its own, it
        has that of the settings, and 0 for the scalars of the loss. Frozen parameters
        are not updated and have no optimizer state, and their gradient does not count
        in the norm.
    """
    update = _update_rule(settings, schedule, settings.weight_decay)
    if groups:
        rules = {parameter_groups.DEFAULT: update}
        for number, group in enumerate(groups):
            rules[parameter_groups.label_of(number)] = _group_rule(
                settings, schedule, group
            )
        labels = functools.partial(parameter_groups.labels, groups)
        update = optax.partition(rules, labels)
    if not settings.gradient_clip:
        return update
    clip_by_norm = (
        clip_by_norm_of_parts if settings.sharded else optax.clip_by_global_norm
    )
    clip = clip_by_norm(settings.gradient_clip)
    if any(group.frozen for group in groups):
        frozen = functools.partial(parameter_groups.frozen, groups)
        clip = optax.chain(optax.masked(optax.set_to_zero(), frozen), clip)
    return optax.chain(clip, update)


def _group_rule(settings, schedule, group):
    if group.frozen:
        return optax.set_to_zero()
    weight_decay, decays = group.weight_decay, None
    if weight_decay is None:
        weight_decay, decays = settings.weight_decay, parameter_groups.of_model
    factor = group.learning_rate
    return _update_rule(
        settings, lambda step: factor * schedule(step), weight_decay, decays
    )


def _update_rule(settings, schedule, weight_decay, decays=None):
    """Returns the rule; `decays` maps the parameters to those that decay, or None."""
    rules = {
        "adam": optax.adam,
        "adamw": functools.partial(optax.adamw, weight_decay=weight_decay, mask=decays),
    }
    return rules[settings.name](schedule)
