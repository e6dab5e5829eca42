"""Position embeddings of a grid of patches, resized for images of other sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_HIGHEST = jax.lax.Precision.HIGHEST


def resized_positions(
    positions: jax.Array, rows: int, columns: int, *, antialias: bool
) -> jax.Array:
    """Interpolates the embeddings of a square grid bicubically.

    It equals `interpolate_pos_encoding` of Hugging Face's models, and thus PyTorch's
    `interpolate(mode="bicubic")`.

    Args:
      positions: `[side * side, dim]` float32, row by row.
      rows, columns: of the new grid.
      antialias: whether the filter widens where the grid shrinks.

    Returns:
      `[rows * columns, dim]` float32; the input itself if the grid has this size.
    """
    side = math.isqrt(len(positions))
    if (rows, columns) == (side, side):
        return positions
    grid = positions.reshape(side, side, -1)
    vertical = bicubic_weights(side, rows, antialias=antialias)
    horizontal = bicubic_weights(side, columns, antialias=antialias)
    resized = jnp.einsum(
        "yr,xc,rcd->yxd", vertical, horizontal, grid, precision=_HIGHEST
    )
    return resized.reshape(rows * columns, -1)


def bicubic_weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Returns `[new, old]` float32: the weight of each old value in each new one.

    Centers of pixels are at half-integers. Without antialiasing, four taps with
    `a = -0.75` are used, and values beyond the border repeat those at the border. With
    antialiasing, `a = -0.5` and the weights inside the border are normalized.
    """
    scale = old / new
    width = max(1.0, scale) if antialias else 1.0
    weights = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * scale - 0.5
        reach = math.ceil(2 * width)
        taps = np.arange(math.floor(center) - reach, math.floor(center) + reach + 2)
        if antialias:
            taps = taps[(taps >= 0) & (taps < old)]
        value = _cubic((taps - center) / width, -0.5 if antialias else -0.75)
        np.add.at(weights[i], np.clip(taps, 0, old - 1), value / value.sum())
    return weights.astype(np.float32)


def _cubic(x, a):
    """Returns Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
