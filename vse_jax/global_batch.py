"""Costs of this device's anchors among the pairs of all devices; per-device code."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from vse_jax import pair_costs, parallel
from vse_jax.loss_scalars import UNSCALED, Scalars
from vse_jax.losses import (
    AnchorCosts,
    infonce_costs,
    least_similar,
    mines_negatives,
    triplet_costs,
)
from vse_jax.similarity import BYTES_WITH_GRADIENT, SIMILARITIES

# Memory of a block of similarities, of which a step holds a few copies. On 8 devices
# this is enough for 16,384 pairs without blocks; with the order similarity, for 3,968.
BLOCK_BYTES = 2**27


def global_costs(
    images: jax.Array,
    captions: jax.Array,
    image_id: jax.Array,
    loss: ml_collections.ConfigDict,
    mining: str,
    scalars: Scalars = UNSCALED,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[AnchorCosts, AnchorCosts]:
    """Computes the costs of this device's anchors against all devices' candidates.

    If the similarities need more than `block_bytes`, blocks of anchors are computed one
    after the other, and again for the gradient. Memory is then proportional to the
    global batch, not to its square.

    The sigmoid loss is a sum over pairs. Its captions travel around the devices instead
    of being gathered, see `pair_costs`.

    If pairs have several views, each view is an anchor, and all views of other images
    are its negatives. Its positive is the least similar of its partner's views.

    Args:
      images: `[batch, embed]`, embeddings of this device, or `[batch, views, embed]`.
      captions: embeddings of this device, in the shape of `images`. The sigmoid loss
        takes no views.
      image_id: `[batch]` int32, equal for pairs that share an image. Such pairs are not
        negatives of each other.
      loss: `config.loss`.
      mining: one of `losses.MININGS`; ignored by a loss that mines no negatives.
      scalars: scale and bias of the loss.
      block_bytes: memory of a block of similarities in bytes. A block has at least one
        anchor.

    Returns:
      Costs of the images as anchors, and of the captions as anchors: `[batch]`, or
      `[batch * views]`.
    """
    if loss.name == "sigmoid":
        return pair_costs.sigmoid_directions(
            images, captions, image_id, scalars, block_bytes=block_bytes
        )
    views = images.shape[1] if images.ndim == 3 else 1
    if views > 1:
        images, captions = (x.reshape(-1, x.shape[-1]) for x in (images, captions))
        image_id = jnp.repeat(image_id, views)
    similarity = SIMILARITIES[loss.similarity]
    all_images, all_captions, all_ids = map(
        parallel.gather, (images, captions, image_id)
    )

    def costs(scores, own, image_id):
        is_negative = image_id[:, None] != all_ids[None]
        if views > 1:
            first = own - own % views
            own = least_similar(scores, first[:, None] + jnp.arange(views))
        return _anchor_costs(scores, own, is_negative, loss, mining, scalars)

    def of_images(images, own, image_id):
        return costs(similarity(images, all_captions), own, image_id)

    def of_captions(captions, own, image_id):
        return costs(similarity(all_images, captions).T, own, image_id)

    own = parallel.position_in_global_batch(len(images))
    bytes_of_anchor = len(all_ids) * BYTES_WITH_GRADIENT[loss.similarity]
    rows = max(1, block_bytes // bytes_of_anchor)
    return (
        _in_blocks(of_images, rows, images, own, image_id),
        _in_blocks(of_captions, rows, captions, own, image_id),
    )


def _anchor_costs(scores, own, is_negative, loss, mining, scalars):
    """Returns the costs of the triplet loss, of InfoNCE, or of their weighted sum."""
    if mines_negatives(loss):
        triplet = triplet_costs(
            scores,
            own,
            is_negative,
            mining=mining,
            margin=loss.margin,
            epsilon=loss.epsilon,
        )
        if loss.name == "triplet":
            return triplet
    infonce = infonce_costs(scores, own, is_negative, scalars.scale)
    if not mines_negatives(loss):
        return infonce
    return triplet._replace(cost=infonce.cost + loss.triplet_weight * triplet.cost)


def _in_blocks(
    function: Callable[..., AnchorCosts], rows: int, *arrays: jax.Array
) -> AnchorCosts:
    """Applies a function to blocks of at most `rows` rows of the arrays."""
    total = len(arrays[0])
    if total <= rows:
        return function(*arrays)
    # Without the checkpoint the gradient would keep the similarities of all blocks.
    block = jax.checkpoint(lambda x: function(*x), prevent_cse=False)
    blocks = tuple(pair_costs.equal_blocks(array, rows) for array in arrays)
    costs = jax.lax.map(block, blocks)
    return jax.tree.map(lambda x: x.reshape(-1)[:total], costs)


def total_loss(
    directions: tuple[AnchorCosts, AnchorCosts], loss: ml_collections.ConfigDict
) -> jax.Array:
    """Returns this device's part of the loss, whose sum over the devices is the loss.

    Args:
      directions: of `global_costs`.
      loss: `config.loss`.
    """
    total = sum(costs.cost.sum() for costs in directions)
    if loss.reduction == "mean":
        anchors = len(directions[0].cost)
        total /= 2 * parallel.sum_over_devices(anchors)
    return total


def anchor_metrics(directions: tuple[AnchorCosts, AnchorCosts]) -> dict:
    """Returns means over the anchors of both directions and all devices.

    An anchor without a negative has no hardest negative and does not count. A loss that
    mines no negatives has no `hard_share`.
    """
    costs = jax.tree.map(lambda *x: jnp.concatenate(x), *directions)
    has_negative = jnp.isfinite(costs.hardest)

    def total(values):
        return jnp.where(has_negative, values, 0).sum(dtype=jnp.float32)

    mined = {} if costs.is_hard is None else {"hard_share": total(costs.is_hard)}
    sums = mined | {
        "gap": total(costs.gap),
        "positive_similarity": total(costs.positive),
        "hardest_similarity": total(costs.hardest),
    }
    sums, count = parallel.sum_over_devices((sums, total(True)))
    return {name: value / jnp.maximum(1, count) for name, value in sums.items()}
