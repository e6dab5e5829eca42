"""Losses on similarities: triplet losses, InfoNCE and the sigmoid loss.

Triplet losses differ in how they mine the negatives of an anchor:

- `all`: every negative (VSE0, equation 5 of Faghri et al., VSE++, 2018);
- `mean`: every negative; the sum is divided by their number;
- `hardest`: the most similar negative (VSE++, equation 6);
- `semi_hard`: the most similar negative that is less similar than the positive
  (FaceNet, Schroff et al., 2015); an anchor without such a negative costs nothing;
- `selective`: `hardest`, except where its gradient would vanish (SelHN, Li et al.,
  "Selectively Hard Negative Mining for Alleviating Gradient Vanishing in Image-Text
  Matching", 2023).

InfoNCE and the sigmoid loss use every negative. They multiply similarities by a scale,
which may be learned, see `loss_scalars`:

- `infonce`: cross entropy of the own candidate among the negatives (van den Oord et
  al., "Representation Learning with Contrastive Predictive Coding", 2018), in both
  directions as in CLIP (Radford et al., 2021);
- `sigmoid`: each pair is classified on its own (SigLIP, Zhai et al., "Sigmoid Loss for
  Language Image Pre-Training", 2023).

Costs are per anchor; the sigmoid loss has the sum over the pairs of an anchor. In the
triplet losses and InfoNCE, an anchor without a negative costs nothing.
`global_batch.total_loss` adds the costs of both directions or takes their mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

LOSSES = ("triplet", "infonce", "sigmoid")
MININGS = ("all", "mean", "hardest", "semi_hard", "selective")


class AnchorCosts(NamedTuple):
    """Costs of anchors and the similarities behind them, all of shape `[anchors]`.

    Attributes:
      cost: float32.
      is_hard: bool, whether the hardest negative was mined; with `semi_hard`, whether
        there is a semi-hard one. None if the loss mines no negatives.
      gap: float32, `|positive - hardest|`, without gradient; inf without a negative.
      positive: float32, similarity of the anchor and its own candidate.
      hardest: float32, similarity of the anchor and its hardest negative; -inf if it
        has no negative.
    """

    cost: jax.Array
    is_hard: jax.Array | None
    gap: jax.Array
    positive: jax.Array
    hardest: jax.Array


def mines_negatives(loss: ml_collections.ConfigDict) -> bool:
    """Returns whether the loss of `config.loss` depends on the mining."""
    return loss.name == "triplet" or loss.triplet_weight > 0


def triplet_costs(
    scores: jax.Array,
    own: jax.Array,
    is_negative: jax.Array,
    *,
    mining: str,
    margin: float = 0.2,
    epsilon: float = 0.01,
) -> AnchorCosts:
    """Computes hinge costs of anchors against candidates of the other modality.

    The cost of a triplet is `max(0, margin + negative - positive)`.

    Args:
      scores: `[anchors, candidates]` float32 similarities.
      own: `[anchors]` int32, index of the candidate that each anchor is paired with.
      is_negative: `[anchors, candidates]` bool; False for the own candidate and for
        other candidates of the same image.
      mining: one of `MININGS`.
      margin: margin in units of similarity.
      epsilon: threshold in units of similarity. If the positive and the hardest
        negative of an anchor differ by less than this, `selective` averages over all
        negatives, because the gradients of the two would cancel.

    Returns:
      An `AnchorCosts`.

    Raises:
      ValueError: if `mining` is not one of `MININGS`.
    """
    positive = _take(scores, own)
    hardest = _largest(scores, is_negative)
    gap = jax.lax.stop_gradient(jnp.abs(positive - hardest))

    def hinge(negative):
        return jnp.maximum(0, margin + negative - positive)

    def sum_of_all():
        costs = jnp.maximum(0, margin + scores - positive[:, None])
        return jnp.where(is_negative, costs, 0).sum(1)

    def mean_of_all():
        return sum_of_all() / jnp.maximum(1, is_negative.sum(1))

    match mining:
        case "all":
            cost, is_hard = sum_of_all(), jnp.zeros_like(gap, bool)
        case "mean":
            cost, is_hard = mean_of_all(), jnp.zeros_like(gap, bool)
        case "hardest":
            cost, is_hard = hinge(hardest), jnp.ones_like(gap, bool)
        case "semi_hard":
            easier = is_negative & (scores < positive[:, None])
            cost, is_hard = hinge(_largest(scores, easier)), easier.any(1)
        case "selective":
            is_hard = gap >= epsilon
            cost = jnp.where(is_hard, hinge(hardest), mean_of_all())
        case _:
            raise ValueError(f"mining is {mining!r}; expected one of {MININGS}")
    return AnchorCosts(cost, is_hard, gap, positive, hardest)


def infonce_costs(
    scores: jax.Array, own: jax.Array, is_negative: jax.Array, scale: jax.Array | float
) -> AnchorCosts:
    """Computes the cross entropy of each anchor's own candidate and its negatives.

    The cost is `-log(exp(s p) / (exp(s p) + sum of exp(s n)))` with the scale `s`, the
    positive `p` and the negatives `n`. It is 0 without a negative.

    Args:
      scores: `[anchors, candidates]` float32 similarities.
      own: `[anchors]` int32, index of the candidate that each anchor is paired with.
      is_negative: `[anchors, candidates]` bool; see `triplet_costs`.
      scale: factor of the similarities, a float32 scalar.

    Returns:
      An `AnchorCosts` whose `is_hard` is None. Only its `cost` has a gradient.
    """
    positive = _take(scores, own)
    # Relative to the positive, so that a small cost is exact.
    logits = jnp.where(is_negative, scale * (scores - positive[:, None]), -jnp.inf)
    is_own = jnp.arange(scores.shape[1]) == own[:, None]
    cost = jax.nn.logsumexp(jnp.where(is_own, 0, logits), axis=1)
    seen = jax.lax.stop_gradient(scores)
    return compared(cost, _take(seen, own), _largest(seen, is_negative))


def least_similar(scores: jax.Array, own: jax.Array) -> jax.Array:
    """Returns the positive of each anchor whose partner has several views.

    The self-expanding loss takes the least similar of the partner's views (Zhu et al.,
    "ESA: External Space Attention Aggregation for Image-Text Retrieval", 2023).

    Args:
      scores: `[anchors, candidates]` float32 similarities.
      own: `[anchors, views]` int32, indices of the partner's views among the
        candidates.

    Returns:
      `[anchors]` int32: an entry of each row of `own`, the first of equal ones.
    """
    similarities = jnp.take_along_axis(jax.lax.stop_gradient(scores), own, axis=1)
    return _take(own, jnp.argmin(similarities, axis=1))


def sigmoid_costs(
    scores: jax.Array,
    is_own: jax.Array,
    is_negative: jax.Array,
    scale: jax.Array | float,
    bias: jax.Array | float,
) -> jax.Array:
    """Computes the cost of each pair of an image and a caption.

    It is `-log(sigmoid(z (scale * score + bias)))`, with `z` 1 for a positive and -1
    for a negative, and 0 for other pairs.

    Args:
      scores: `[images, captions]` float32 similarities.
      is_own: `[images, captions]` bool, whether they are a pair of the batch.
      is_negative: `[images, captions]` bool; False for pairs of the same image.
      scale: factor of the similarities.
      bias: added to the scaled similarities.

    Returns:
      `[images, captions]` float32.
    """
    logits = scale * scores + bias
    costs = jax.nn.softplus(jnp.where(is_own, -logits, logits))
    return jnp.where(is_own | is_negative, costs, 0)


def compared(cost: jax.Array, positive: jax.Array, hardest: jax.Array) -> AnchorCosts:
    """Returns the costs of a loss that mines no negatives; arguments `[anchors]`."""
    gap = jax.lax.stop_gradient(jnp.abs(positive - hardest))
    return AnchorCosts(cost, None, gap, positive, hardest)


def _take(scores, index):
    return jnp.take_along_axis(scores, index[:, None], axis=1)[:, 0]


def _largest(scores, candidates):
    """Returns the largest score among `candidates`, or -inf without candidates.

    On a tie, one candidate gets the whole gradient, since one negative is mined.
    """
    scores = jnp.where(candidates, scores, -jnp.inf)
    return _take(scores, jnp.argmax(jax.lax.stop_gradient(scores), axis=1))
