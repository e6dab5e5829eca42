"""Per-device code of a training step and of an embedding step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from vse_jax import parallel, parameter_groups
from vse_jax.losses import AnchorCosts, triplet_costs
from vse_jax.models.vse import VSE, of_encoders
from vse_jax.parameter_groups import Groups
from vse_jax.similarity import SIMILARITIES


class TrainState(flax.struct.PyTreeNode):
    """Everything that a training step updates.

    Attributes:
      step: int32, number of updates made.
      params: the model's parameters, float32.
      batch_stats: running statistics of batch normalization, float32.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """Variables in the form that the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_train_state(
    model: VSE, optimizer: optax.GradientTransformation, batch: dict, seed: int
) -> TrainState:
    """Returns a state with random parameters; `batch` gives the input's shapes."""
    return start_training(optimizer, init_variables(model, batch, seed))


def init_variables(model: VSE, batch: dict, seed: int) -> dict:
    """Returns random variables of the model; `batch` gives the input's shapes."""
    # Outside a mapped step there are no devices to gather from.
    single = model.clone(gather_over_devices=lambda array: array)
    one_pair = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch)
    return jax.jit(single.init)(jax.random.key(seed), one_pair)


def start_training(
    optimizer: optax.GradientTransformation, variables: dict, step: int = 0
) -> TrainState:
    """Returns the state at `step` with these variables and a new optimizer state."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(params),
    )


def make_train_step(
    model: VSE,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    loss: ml_collections.ConfigDict,
    mining: str,
    groups: Groups = (),
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
    """

    def loss_and_aux(params, state, batch):
        params = parameter_groups.stop_frozen(groups, params)
        variables = {"params": params, "batch_stats": state.batch_stats}
        (images, captions), updated = model.apply(
            variables, batch, mutable=["batch_stats"]
        )
        directions = global_costs(images, captions, batch["image_id"], loss, mining)
        total = sum(costs.cost.sum() for costs in directions)
        if loss.reduction == "mean":
            total /= 2 * global_batch_size(batch)
        return total, (updated.get("batch_stats", {}), directions)

    def train_step(state, batch):
        gradient_of = jax.value_and_grad(loss_and_aux, has_aux=True)
        (value, (batch_stats, directions)), gradients = gradient_of(
            state.params, state, batch
        )
        value, gradients = parallel.sum_over_devices((value, gradients))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {
            "loss": value,
            **anchor_metrics(directions),
            **gradient_norms(gradients),
            "learning_rate": schedule(state.step),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new_state, metrics

    return train_step


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


def global_costs(
    images: jax.Array,
    captions: jax.Array,
    image_id: jax.Array,
    loss: ml_collections.ConfigDict,
    mining: str,
) -> tuple[AnchorCosts, AnchorCosts]:
    """Computes the costs of this device's anchors against all devices' candidates.

    Args:
      images: `[batch, embed]`, embeddings of this device.
      captions: `[batch, embed]`, embeddings of this device.
      image_id: `[batch]` int32, equal for pairs that share an image. Such pairs are not
        negatives of each other.
      loss: `config.loss`.
      mining: one of `losses.MININGS`.

    Returns:
      Costs of the images as anchors, and of the captions as anchors.
    """
    similarity = SIMILARITIES[loss.similarity]
    own = parallel.position_in_global_batch(len(images))
    is_negative = image_id[:, None] != parallel.gather(image_id)[None]

    def costs(scores):
        return triplet_costs(
            scores,
            own,
            is_negative,
            mining=mining,
            margin=loss.margin,
            epsilon=loss.epsilon,
        )

    image_anchors = costs(similarity(images, parallel.gather(captions)))
    caption_anchors = costs(similarity(parallel.gather(images), captions).T)
    return image_anchors, caption_anchors


def anchor_metrics(directions: tuple[AnchorCosts, AnchorCosts]) -> dict:
    """Returns means over the anchors of both directions and all devices.

    An anchor without a negative has no hardest negative and does not count.
    """
    costs = jax.tree.map(lambda *x: jnp.concatenate(x), *directions)
    has_negative = jnp.isfinite(costs.hardest)

    def total(values):
        return jnp.where(has_negative, values, 0).sum(dtype=jnp.float32)

    sums = {
        "hard_share": total(costs.is_hard),
        "gap": total(costs.gap),
        "positive_similarity": total(costs.positive),
        "hardest_similarity": total(costs.hardest),
    }
    sums, count = parallel.sum_over_devices((sums, total(True)))
    return {name: value / jnp.maximum(1, count) for name, value in sums.items()}


def gradient_norms(gradients: dict) -> dict:
    """Returns the gradient norms, before clipping, of each encoder and of the model."""
    norms = {
        f"gradient_norm_{name}": optax.global_norm(tree)
        for name, tree in of_encoders(gradients).items()
    }
    return {"gradient_norm": optax.global_norm(gradients)} | norms


def global_batch_size(batch: dict):
    """Returns the number of pairs on all devices together."""
    return parallel.sum_over_devices(batch["image_id"].shape[0])
