"""Depthwise convolutions, in the form that each platform computes fastest."""

import jax
import jax.numpy as jnp

Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> jax.Array:
    """Convolves every channel with a kernel of its own.

    Args:
      x: `[batch, height, width, channels]`.
      kernel: `[rows, columns, 1, channels]`.
      stride: of the rows and the columns.
      padding: zeros above and below, left and right.

    Returns:
      `[batch, new height, new width, channels]`, of the type of `x`.
    """
    return _shifted_products(x, kernel, stride, padding)


def _shifted_products(x, kernel, stride, padding):
    rows, columns, _, channels = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, height, width, _ = x.shape
    out_height, out_width = (
        (height - rows) // stride + 1,
        (width - columns) // stride + 1,
    )
    total = 0
    for i in range(rows):
        for j in range(columns):
            shifted = jax.lax.slice(
                x,
                (0, i, j, 0),
                (
                    batch,
                    i + (out_height - 1) * stride + 1,
                    j + (out_width - 1) * stride + 1,
                    channels,
                ),
                (1, stride, stride, 1),
            )
            total += shifted * kernel[i, j, 0]
    return total
