"""Similarities of embeddings, in float32 at full precision on every device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vse_jax.models.kernels.violation_norm import LEAST_DIMS, violation_norm

BYTES = 4  # of the similarity of a pair
# The same with its gradient. That of `order` stores the differences of some dimensions.
BYTES_WITH_GRADIENT = {"cosine": BYTES, "order": BYTES * (1 + LEAST_DIMS)}


def cosine(images: jax.Array, captions: jax.Array) -> jax.Array:
    """Computes dot products of normalized embeddings, equation 1 of VSE++.

    Args:
      images: embeddings, `[images, embed]`.
      captions: embeddings, `[captions, embed]`.

    Returns:
      `[images, captions]` float32.
    """
    return jnp.dot(
        images.astype(jnp.float32),
        captions.astype(jnp.float32).T,
        precision=jax.lax.Precision.HIGHEST,
    )


def order(images: jax.Array, captions: jax.Array) -> jax.Array:
    """Computes the order similarity `-||max(0, caption - image)||`.

    The norm measures by how much a caption violates the order in which it is more
    general than the image (Vendrov et al., "Order-Embeddings of Images and Language",
    2016). Without a violation the gradient is zero. Shapes are those of `cosine`.
    """
    return -violation_norm(images.astype(jnp.float32), captions.astype(jnp.float32))


SIMILARITIES: dict[str, Callable] = {"cosine": cosine, "order": order}


def scores_of(
    name: str, content: str, rows: jax.Array, queries: jax.Array
) -> jax.Array:
    """Computes the similarities of images or captions and queries of the other side.

    Args:
      name: one of `SIMILARITIES`.
      content: `images` or `captions`, what `rows` are.
      rows: embeddings, `[rows, embed]`.
      queries: embeddings of the other side, `[queries, embed]`.

    Returns:
      `[rows, queries]` float32.
    """
    if content == "images" or name == "cosine":
        return SIMILARITIES[name](rows, queries)
    return SIMILARITIES[name](queries, rows).T
