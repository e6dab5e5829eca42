"""Convolutions, each in the form that the platform computes fastest.

XLA's own is good on TPUs and GPUs. On CPUs it is slow where the channels are in groups.
Measured on two cores, in milliseconds, beside PyTorch's:

| input, kernel                                 | XLA | here | PyTorch |
| --------------------------------------------- | --: | ---: | ------: |
| 16x112x112x32, 3x3, depthwise                 | 665 |   15 |     109 |
| 16x56x56x144, 3x3, depthwise                  | 752 |   56 |     101 |
| 16x56x56x144, 5x5, depthwise, stride 2        | 300 |   32 |      29 |
| 16x28x28x240, 5x5, depthwise                  | 477 |   15 |      25 |
| 4x56x56x256, 3x3, 32 groups                   | 362 |   54 |      35 |
| 4x14x14x1024, 3x3, 32 groups                  |  41 |   12 |      20 |
| 16x56x56x144, 1x1, to 24 channels             |  18 |   11 |      29 |
"""

import jax
import jax.numpy as jnp

# Zeros above and below, left and right.
Padding = tuple[tuple[int, int], tuple[int, int]]

# Convolutions of fewer channels than this do not fill the processor's vectors.
_JOINED_CHANNELS = 32


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """Convolves a map.

    Args:
      x: `[batch, height, width, channels]`.
      kernel: `[rows, columns, channels / groups, features]`.
      stride: of the rows and the columns.
      padding: how many zeros go around the map.
      groups: of channels that are convolved among themselves.

    Returns:
      `[batch, new height, new width, features]`, of the type of `x`.
    """
    if kernel.shape[:2] == (1, 1) and groups == 1:
        return _product(x, kernel, stride)
    if groups == 1:
        return _plain(x, kernel, stride, padding)
    on_cpu = _shifted_products if kernel.shape[2] == 1 else _few_groups
    # Chosen when the program is lowered, for it may be compiled for another machine.
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: on_cpu(x, kernel, stride, padding),
        default=lambda x, kernel: _plain(x, kernel, stride, padding, groups),
    )


def _plain(x, kernel, stride, padding, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _product(x, kernel, stride):
    """A convolution of single pixels, as a product of matrices."""
    x = x[:, ::stride, ::stride]
    product = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return product.reshape(*x.shape[:-1], -1)


def _shifted_products(x, kernel, stride, padding):
    """A depthwise convolution as a sum over the pixels of its kernel."""
    rows, columns = kernel.shape[:2]
    # Without the barrier the padding, and what comes before it, would be computed for
    # every pixel of the kernel anew.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    return sum(
        _shifted(x, i, j, (rows, columns), stride) * kernel[i, j, 0]
        for i in range(rows)
        for j in range(columns)
    )


def _shifted(x, i, j, size, stride):
    """What the pixel at row `i`, column `j` of the kernel meets."""
    bottom, right = (
        start + length - kernel_length + 1
        for start, length, kernel_length in zip((i, j), x.shape[1:3], size, strict=True)
    )
    return x[:, i:bottom:stride, j:right:stride]


def _few_groups(x, kernel, stride, padding):
    """A grouped convolution as several, each of a few groups joined.

    Between the groups that are joined the kernel is zero.
    """
    rows, columns, inputs, features = kernel.shape
    channels = x.shape[-1]
    groups = channels // inputs
    joined = max(1, _JOINED_CHANNELS // inputs)
    while groups % joined:
        joined -= 1
    count = groups // joined
    kernel = kernel.reshape(rows, columns, inputs, count, joined, features // groups)
    kernel = jnp.einsum("rcinjo,jk->nrckijo", kernel, jnp.eye(joined, dtype=x.dtype))
    kernel = kernel.reshape(count, rows, columns, joined * inputs, features // count)
    parts = jnp.split(x, count, axis=-1)
    return jnp.concatenate(
        [
            _plain(part, part_kernel, stride, padding)
            for part, part_kernel in zip(parts, kernel, strict=True)
        ],
        axis=-1,
    )
