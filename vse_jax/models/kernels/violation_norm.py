"""The norm of the violations of order-embeddings, with a gradient in little memory.

`plain_norm` is the plain form, whose differences `[images, captions, dim]` are never
stored. XLA's gradient of it stores them on CPUs: 64 MB for 128 pairs of 1,024
dimensions. The gradient here computes them again, as many dimensions at a time as fit
into the cache. The similarities of these pairs and their gradient then take 12 instead
of 86 ms on two CPU cores (`benchmarks/order_similarity.py`).
"""

import jax
import jax.numpy as jnp

LEAST_DIMS, _MOST_DIMS = 16, 128  # that the gradient takes at a time
_NUMBERS = 2**20  # differences at a time, unless these are fewer than `LEAST_DIMS`


def plain_norm(images: jax.Array, captions: jax.Array) -> jax.Array:
    """Returns `||max(0, caption - image)||` of all pairs, the plain form.

    Without a violation the gradient is 0.

    Args:
      images: `[images, dim]` float32.
      captions: `[captions, dim]` float32.

    Returns:
      `[images, captions]` float32.
    """
    squared = jnp.square(_violation(images, captions)).sum(-1)
    # The square root's derivative at zero is infinite. The inner `where` avoids it; the
    # outer one alone would give a gradient of NaN.
    is_violated = ~(squared <= 0)  # also by NaN, whose norm is NaN
    return jnp.where(is_violated, jnp.sqrt(jnp.where(is_violated, squared, 1)), 0)


@jax.custom_vjp
def violation_norm(images: jax.Array, captions: jax.Array) -> jax.Array:
    """Equals `plain_norm`, and so does its gradient.

    Args:
      images: see `plain_norm`.
      captions: see `plain_norm`.

    Returns:
      `[images, captions]` float32.
    """
    return plain_norm(images, captions)


def _forward(images, captions):
    norm = plain_norm(images, captions)
    return norm, (images, captions, norm)


def _backward(residuals, cotangent):
    images, captions, norm = residuals
    is_violated = ~(norm <= 0)
    scale = jnp.where(is_violated, cotangent / jnp.where(is_violated, norm, 1), 0)

    def of_part(part):
        pulled = scale[..., None] * _violation(*part)
        return -pulled.sum(1), pulled.sum(0)

    dims = _dims_at_once(len(images) * len(captions))
    parts = _split(images, dims), _split(captions, dims)
    of_images, of_captions = jax.lax.map(of_part, parts)
    return _join(of_images, images), _join(of_captions, captions)


violation_norm.defvjp(_forward, _backward)


def _violation(images, captions):
    return jnp.maximum(0, captions[None] - images[:, None])


def _dims_at_once(pairs):
    fitting = _NUMBERS // max(pairs, 1) // 8 * 8
    return min(max(fitting, LEAST_DIMS), _MOST_DIMS)


def _split(side, dims):
    """Splits `[rows, dim]` to `[parts, rows, dims]`, padded by equal values."""
    side = jnp.pad(side, ((0, 0), (0, -side.shape[1] % dims)))
    return side.reshape(len(side), -1, dims).swapaxes(0, 1)


def _join(parts, side):
    """Joins `[parts, rows, dims]` to the shape of `side`, `[rows, dim]`."""
    return parts.swapaxes(0, 1).reshape(len(side), -1)[:, : side.shape[1]]
