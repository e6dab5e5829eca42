"""The gradient of a large batch in the memory of a small one; per-device code.

A pair's loss depends on all pairs of the batch, so gradients of parts cannot be added
up as for other losses. Gao et al. ("Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup", 2021) note that it depends on them through their embeddings
alone. The batch is embedded part by part, without what a gradient needs of the
encoders. The loss and its gradient with respect to the embeddings are those of the
whole batch. Each part is then embedded again, and its share of the gradient is carried
back to the parameters. The result is the gradient of the whole batch, for about four
thirds of its arithmetic.

Batch normalization in training mode takes the statistics of a part over all devices,
in both passes, and updates its running statistics once for each part. The gradient is
that of the function so computed. Statistics of the whole batch would need one more pass
for each normalization, 53 in a ResNet-50, forward and back. The usual accumulation of
gradients takes those of a part, too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Outcome(NamedTuple):
    """What a step computes before the update.

    Attributes:
      value: float32, this device's part of the loss.
      aux: second result of the loss.
      batch_stats: statistics after the batch.
      gradients: tree like the parameters, of this device's pairs.
    """

    value: jax.Array
    aux: Any
    batch_stats: Any
    gradients: Any


def loss_and_gradients(
    embed: Callable,
    loss: Callable,
    params: Any,
    batch_stats: Any,
    batch: dict[str, jax.Array],
    microbatches: int = 1,
) -> Outcome:
    """Computes the loss of a batch, and the gradients of the parameters.

    Args:
      embed: maps `params`, `batch_stats` and a batch to a tuple of embeddings
        `[pairs, embed]` and the new `batch_stats`. The embeddings must not depend on
        running statistics that it changes.
      loss: maps `params`, the embeddings and the batch to a value and any other result.
        It may depend on parameters of its own.
      params: parameters.
      batch_stats: running statistics.
      batch: arrays `[pairs, ...]`.
      microbatches: number of parts; divides the number of pairs. With 1, everything is
        computed at once.
    """
    if microbatches == 1:
        return _at_once(embed, loss, params, batch_stats, batch)

    def forward(batch_stats, number):
        part = _part(batch, number, microbatches)
        embeddings, batch_stats = embed(params, batch_stats, part)
        return batch_stats, embeddings

    numbers = jnp.arange(microbatches)
    new_stats, parts = jax.lax.scan(forward, batch_stats, numbers)
    embeddings = jax.tree.map(_join, parts)
    gradient_of = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, aux), (own, cotangents) = gradient_of(params, embeddings, batch)

    def backward(total, number):
        part = _part(batch, number, microbatches)
        _, pull_back = jax.vjp(
            lambda params: embed(params, batch_stats, part)[0], params
        )
        (gradients,) = pull_back(_part(cotangents, number, microbatches))
        return jax.tree.map(jnp.add, total, gradients), None

    gradients, _ = jax.lax.scan(backward, own, numbers)
    return Outcome(value, aux, new_stats, gradients)


def _at_once(embed, loss, params, batch_stats, batch):
    def of_params(params):
        embeddings, new_stats = embed(params, batch_stats, batch)
        value, aux = loss(params, embeddings, batch)
        return value, (aux, new_stats)

    gradient_of = jax.value_and_grad(of_params, has_aux=True)
    (value, (aux, new_stats)), gradients = gradient_of(params)
    return Outcome(value, aux, new_stats, gradients)


def _part(tree, number, count):
    """Returns every `count`-th row of each array, starting with row `number`.

    A part has the same pairs on any number of devices, since the devices' rows follow
    one another in the global batch.
    """

    def take(array):
        rows = array.reshape(-1, count, *array.shape[1:])
        return jax.lax.dynamic_index_in_dim(rows, number, axis=1, keepdims=False)

    return jax.tree.map(take, tree)


def _join(parts):
    """Undoes `_part`: `[count, rows, ...]` to `[count * rows, ...]`."""
    return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])
