"""The sigmoid loss, without all similarities on one device; per-device code.

Every device keeps its images. The captions travel around the devices, with the sums of
their costs, and return after as many steps as there are devices (Zhai et al., "Sigmoid
Loss for Language Image Pre-Training", 2023, section 3.3). A device never has more
similarities than those of its images and one device's captions. These are computed in
blocks of images, and again for the gradient.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vse_jax import parallel
from vse_jax.loss_scalars import Scalars
from vse_jax.losses import AnchorCosts, compared, sigmoid_costs
from vse_jax.similarity import BYTES, cosine


class _Side(NamedTuple):
    """The images or the captions of some pairs.

    Attributes:
      embeddings: `[pairs, embed]`.
      image_id: `[pairs]` int32.
      position: `[pairs]` int32, position in the global batch; -1 in padding.
    """

    embeddings: jax.Array
    image_id: jax.Array
    position: jax.Array


class _Sums(NamedTuple):
    """Costs of the pairs that were computed so far, and their similarities.

    All are `[anchors]` float32; see `AnchorCosts`.
    """

    cost: jax.Array
    positive: jax.Array
    hardest: jax.Array


def sigmoid_directions(
    images: jax.Array,
    captions: jax.Array,
    image_id: jax.Array,
    scalars: Scalars,
    *,
    block_bytes: int,
) -> tuple[AnchorCosts, AnchorCosts]:
    """Computes the sigmoid loss of this device's anchors, see `losses.sigmoid_costs`.

    The cost of a pair counts for its image and for its caption. The mean over the
    anchors of both directions is therefore the published loss, the sum over all pairs
    divided by the number of images.

    Args:
      images: `[batch, embed]`, embeddings of this device.
      captions: `[batch, embed]`, embeddings of this device.
      image_id: `[batch]` int32, equal for pairs that share an image.
      scalars: scale and bias.
      block_bytes: memory of a block of similarities in bytes.

    Returns:
      Costs of the images as anchors, and of the captions as anchors.
    """
    position = parallel.position_in_global_batch(len(images))
    rows = max(1, block_bytes // (len(captions) * BYTES))
    blocks = _Side(
        equal_blocks(images, rows),
        equal_blocks(image_id, rows),
        equal_blocks(position, rows, fill=-1),
    )
    # Without the checkpoint the gradient would keep all similarities.
    costs_of_block = jax.checkpoint(
        functools.partial(_costs_of_block, scalars=scalars), prevent_cse=False
    )

    def meet(traveling, _):
        captions, of_captions = traveling

        def add_block(of_captions, images):
            of_images, more = costs_of_block(images, captions)
            return _joined(of_captions, more), of_images

        of_captions, of_images = jax.lax.scan(add_block, of_captions, blocks)
        return parallel.pass_on((captions, of_captions)), of_images

    start = _Side(captions, image_id, position), _nothing(len(captions))
    (_, of_captions), parts = jax.lax.scan(meet, start, length=parallel.axis_size())
    of_images = _Sums(parts.cost.sum(0), parts.positive.sum(0), parts.hardest.max(0))
    of_images = jax.tree.map(lambda x: x.reshape(-1)[: len(images)], of_images)
    return compared(*of_images), compared(*of_captions)


def _costs_of_block(images: _Side, captions: _Side, *, scalars: Scalars):
    """Returns the `_Sums` of the images and of the captions."""
    scores = cosine(images.embeddings, captions.embeddings)
    is_own = images.position[:, None] == captions.position
    is_negative = images.image_id[:, None] != captions.image_id
    is_negative &= images.position[:, None] >= 0
    costs = sigmoid_costs(scores, is_own, is_negative, *scalars)
    seen = jax.lax.stop_gradient(scores)
    positive = jnp.where(is_own, seen, 0)
    negative = jnp.where(is_negative, seen, -jnp.inf)
    return tuple(
        _Sums(costs.sum(axis), positive.sum(axis), negative.max(axis))
        for axis in (1, 0)
    )


def _joined(first: _Sums, second: _Sums) -> _Sums:
    return _Sums(
        first.cost + second.cost,
        first.positive + second.positive,
        jnp.maximum(first.hardest, second.hardest),
    )


def _nothing(anchors: int) -> _Sums:
    zeros = jnp.zeros(anchors)
    return _Sums(zeros, zeros, zeros - jnp.inf)


def equal_blocks(array: jax.Array, rows: int, fill: int = 0) -> jax.Array:
    """Splits an array into equal blocks.

    Args:
      array: `[total, ...]`, of any dtype.
      rows: maximum rows of a block.
      fill: value of the rows that are added, so that all blocks are equal.

    Returns:
      `[blocks, rows of a block, ...]` of the same dtype.
    """
    blocks = -(-len(array) // rows)
    missing = -len(array) % blocks
    widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, widths, constant_values=fill)
    return padded.reshape(blocks, -1, *array.shape[1:])
