"""Similarity of embeddings; float32 at full precision on every device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def cosine(images: jax.Array, captions: jax.Array) -> jax.Array:
    """Dot products of normalized embeddings, equation 1 of VSE++.

    Args:
      images: `[images, dim]`.
      captions: `[captions, dim]`.

    Returns:
      `[images, captions]` float32.
    """
    return jnp.dot(
        images.astype(jnp.float32),
        captions.astype(jnp.float32).T,
        precision=jax.lax.Precision.HIGHEST,
    )


def order(images: jax.Array, captions: jax.Array) -> jax.Array:
    """`-||max(0, caption - image)||`: how far a caption is from being more general.

    Vendrov et al., "Order-Embeddings of Images and Language" (2016). Shapes are those
    of `cosine`. Where nothing is violated the gradient is zero.
    """
    images, captions = images.astype(jnp.float32), captions.astype(jnp.float32)
    violation = jnp.maximum(0, captions[None] - images[:, None])
    squared = jnp.square(violation).sum(-1)
    violated = squared > 0
    # The square root's derivative at zero is infinite; `where` alone would not stop it.
    return -jnp.where(violated, jnp.sqrt(jnp.where(violated, squared, 1)), 0)


SIMILARITIES: dict[str, Callable] = {"cosine": cosine, "order": order}
