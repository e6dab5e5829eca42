"""Per-device code of a training step and of an embedding step."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from vse_jax import (
    loss_scalars,
    parallel,
    parameter_average,
    parameter_groups,
    sharded_optimizer,
)
from vse_jax.global_batch import anchor_metrics, global_costs, total_loss
from vse_jax.microbatches import loss_and_gradients
from vse_jax.models.vse import VSE, of_encoders
from vse_jax.parameter_groups import Groups


class TrainState(flax.struct.PyTreeNode):
    """Everything that a training step updates.

    Attributes:
      step: int32, number of updates made.
      params: the model's parameters and the loss's learned scalars, float32.
      batch_stats: running statistics of batch normalization, float32.
      opt_state: the optimizer's state.
      average: average of `variables` over the steps, see `parameter_average`; None
        without one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    average: dict[str, Any] | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of the next step, in the form that the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def result(self) -> dict[str, Any]:
        """Variables to evaluate and to save as the model: the average, if any."""
        return self.variables if self.average is None else self.average


def create_train_state(
    model: VSE,
    optimizer: optax.GradientTransformation,
    batch: dict,
    seed: int,
    loss: ml_collections.ConfigDict | None = None,
    *,
    averages: bool = False,
) -> TrainState:
    """Returns a state with random parameters; see `init_variables`."""
    variables = init_variables(model, batch, seed, loss)
    return start_training(optimizer, variables, averages=averages)


def init_variables(
    model: VSE,
    batch: dict,
    seed: int,
    loss: ml_collections.ConfigDict | None = None,
) -> dict:
    """Returns random variables of the model, and the start of the learned scalars.

    Args:
      model: the model.
      batch: gives the input's shapes.
      seed: seed of the model's parameters.
      loss: `config.loss`; None for the model alone, which is enough to evaluate it.
    """
    # Outside a mapped step there are no devices to gather from.
    single = model.clone(gather_over_devices=lambda array: array)
    one_pair = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch)
    variables = jax.jit(single.init)(jax.random.key(seed), one_pair)
    if loss is None:
        return variables
    params = {**variables["params"], **loss_scalars.start_params(loss)}
    return {**variables, "params": params}


def start_training(
    optimizer: optax.GradientTransformation,
    variables: dict,
    step: int = 0,
    *,
    averages: bool = False,
) -> TrainState:
    """Returns the state at `step` with these variables and a new optimizer state.

    With `averages`, it also has an average, which starts from these variables.
    """
    params = variables["params"]
    state = TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(params),
    )
    return state.replace(average=state.variables) if averages else state


def make_train_step(
    model: VSE,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    loss: ml_collections.ConfigDict,
    mining: str,
    groups: Groups = (),
    *,
    microbatches: int = 1,
    sharded: bool = False,
    average_decay: float = 0.0,
    seed: int = 0,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """Returns the per-device training step, for `parallel.map_over_devices`.

    The step takes the state and this device's part of the batch. It returns the new
    state and the metrics of the global batch, which are equal on all devices.

    Args:
      model: model in training mode.
      optimizer: optimizer of `create_optimizer`, with the same groups.
      schedule: learning rate by step, to be logged. The factor of a group is not
        logged.
      loss: `config.loss`.
      mining: one of `losses.MININGS`.
      groups: parameter groups; no gradient is computed for frozen ones.
      microbatches: number of parts of the batch that are embedded one after the other,
        see `vse_jax.microbatches`.
      sharded: whether the optimizer's state is split over the devices, see
        `vse_jax.sharded_optimizer`.
      average_decay: decay of the state's average, see `parameter_average`; 0 if it has
        none.
      seed: seed of the model's dropout.
    """
    update = functools.partial(_update_parts, groups) if sharded else _update
    embed = _embedder(model, groups, seed)

    def loss_of(params, embeddings, batch):
        params = parameter_groups.stop_frozen(groups, params)
        scalars = loss_scalars.values(loss, params)
        directions = global_costs(*embeddings, batch["image_id"], loss, mining, scalars)
        return total_loss(directions, loss), directions

    def train_step(state, batch):
        value, directions, batch_stats, gradients = loss_and_gradients(
            functools.partial(embed, state.step),
            loss_of,
            state.params,
            state.batch_stats,
            batch,
            microbatches,
        )
        value, params, opt_state, norms = update(optimizer, state, value, gradients)
        metrics = {
            "loss": value,
            **anchor_metrics(directions),
            **norms,
            **loss_scalars.metrics(loss, state.params),
            "learning_rate": schedule(state.step),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=loss_scalars.limited(loss, params),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return _averaged(new_state, state.average, average_decay), metrics

    return train_step


def _embedder(model, groups, seed):
    """Returns the function that embeds a batch in the step of a number."""

    def embed(step, params, batch_stats, batch):
        params = parameter_groups.stop_frozen(groups, params)
        embeddings, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch,
            rngs=keys(step),
            mutable=["batch_stats"],
        )
        return embeddings, updated.get("batch_stats", {})

    def keys(step):
        if not (model.dropout or model.text_dropout):
            return {}
        return {"dropout": jax.random.fold_in(jax.random.key(seed), step)}

    return embed


def _averaged(state, average, decay):
    """Adds the state's variables to the average of the state before, if any."""
    if average is None:
        return state
    average = parameter_average.updated(average, state.variables, decay, state.step)
    return state.replace(average=average)


def _update(optimizer, state, value, gradients):
    """Sums over the devices and updates the parameters.

    Returns:
      The loss, the new parameters, the optimizer's new state, norms of the gradient.
    """
    value, gradients = parallel.sum_over_devices((value, gradients))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return value, params, opt_state, _gradient_norms(gradients, optax.global_norm)


def _update_parts(groups, optimizer, state, value, gradients):
    """As `_update`, with the optimizer's state split over the devices."""
    frozen = parameter_groups.frozen(groups, state.params)
    params, opt_state, parts = sharded_optimizer.update(
        optimizer, gradients, state.opt_state, state.params, frozen
    )
    norms = _gradient_norms(parts, sharded_optimizer.norm_of_parts)
    return parallel.sum_over_devices(value), params, opt_state, norms


def make_embed_steps(model: VSE) -> tuple[Callable, Callable]:
    """Returns the per-device steps that embed images and captions.

    Both take the model's variables and this device's part of a batch, and return the
    embeddings of the global batch.
    """

    def embed_images(variables, batch):
        embedded = model.apply(variables, batch, method=VSE.embed_images)
        return parallel.gather(embedded)

    def embed_captions(variables, batch):
        embedded = model.apply(variables, batch, method=VSE.embed_captions)
        return parallel.gather(embedded)

    return embed_images, embed_captions


def _gradient_norms(gradients: dict, global_norm: Callable) -> dict:
    """Returns the gradient norms, before clipping, of each encoder and of the model."""
    norms = {
        f"gradient_norm_{name}": global_norm(tree)
        for name, tree in of_encoders(gradients).items()
    }
    return {"gradient_norm": global_norm(gradients)} | norms
