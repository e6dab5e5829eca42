"""Convolutions, each in the form that is fastest on the platform.

XLA's convolution is fast on accelerators. On CPUs it is slow for grouped channels.
Milliseconds, measured on two cores:

| input, kernel                                 | XLA | here | PyTorch |
| --------------------------------------------- | --: | ---: | ------: |
| 16x112x112x32, 3x3, depthwise                 | 665 |   15 |     109 |
| 16x56x56x144, 3x3, depthwise                  | 752 |   56 |     101 |
| 16x56x56x144, 5x5, depthwise, stride 2        | 300 |   32 |      29 |
| 16x28x28x240, 5x5, depthwise                  | 477 |   15 |      25 |
| 4x56x56x256, 3x3, 32 groups                   | 362 |   54 |      35 |
| 4x14x14x1024, 3x3, 32 groups                  |  41 |   12 |      20 |
| 16x56x56x144, 1x1, to 24 channels             |  18 |   11 |      29 |

A 1x1 convolution is a matrix product on CPUs and GPUs. On TPUs a map and a matrix have
different layouts, and the compiler would move all numbers between them. For 16 photos
on a TPU v5e it estimates 2.11 ms for ResNet-50 with convolutions, and 2.38 ms with
matrix products; for EfficientNet-Lite0, 1.94 ms and 2.16 ms.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vse_jax.models.kernels.platforms import plain_forms

# Zeros (above, below), (left, right).
Padding = tuple[tuple[int, int], tuple[int, int]]

# Convolutions with fewer input channels do not fill the processor's vectors.
_JOINED_CHANNELS = 32


# Because of its own `jit`, it is traced once for all layers of the same shapes.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """Convolves a map.

    Args:
      x: `[batch, height, width, channels]`.
      kernel: `[rows, columns, channels / groups, features]`.
      stride: of rows and columns.
      padding: number of zeros on each side of the map; none for a 1x1 kernel.
      groups: number of groups of channels, which are convolved separately.

    Returns:
      `[batch, new height, new width, features]`, with the dtype of `x`.
    """
    if plain_forms.value:
        return _plain_convolution(x, kernel, stride, padding, groups)
    if groups > 1 or kernel.shape[:2] == (1, 1):
        return _convolve_per_platform(x, kernel, stride, padding, groups)
    return _plain_convolution(x, kernel, stride, padding)


class _Form(NamedTuple):
    """A way to compute a convolution.

    Attributes:
      value: maps the map and the kernel to the result.
      cotangents: maps the map, the kernel and the cotangent of the result to those of
        the map and the kernel; None for automatic differentiation of `value`.
    """

    value: Callable
    cotangents: Callable | None = None


def _forms(kernel, stride, padding, groups):
    """Returns the form for each platform that has one of its own, and the default."""
    options = {"stride": stride, "padding": padding}
    plain = _Form(functools.partial(_plain_convolution, groups=groups, **options))
    if groups == 1:
        product = _Form(functools.partial(_product, stride=stride))
        return {"tpu": plain, "default": product}
    if kernel.shape[2:] != (1, groups):
        joined = _Form(functools.partial(_few_groups, **options))
        return {"cpu": joined, "default": plain}
    shifted = _Form(
        functools.partial(_shifted_products, **options),
        functools.partial(_shifted_products_cotangents, **options),
    )
    return {"cpu": shifted, "default": plain}


# With automatic differentiation, the residuals of all forms would be stored. Those of
# the sum of shifted products are a copy of the map for each pixel of the kernel.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_per_platform(x, kernel, stride, padding, groups):
    forms = _forms(kernel, stride, padding, groups)
    values = {platform: form.value for platform, form in forms.items()}
    return jax.lax.platform_dependent(x, kernel, **values)


def _convolve_per_platform_forward(x, kernel, stride, padding, groups):
    return _convolve_per_platform(x, kernel, stride, padding, groups), (x, kernel)


def _convolve_per_platform_backward(stride, padding, groups, inputs, cotangent):
    forms = _forms(inputs[1], stride, padding, groups)
    cotangents = {
        platform: form.cotangents or functools.partial(_cotangents, form.value)
        for platform, form in forms.items()
    }
    return jax.lax.platform_dependent(*inputs, cotangent, **cotangents)


_convolve_per_platform.defvjp(
    _convolve_per_platform_forward, _convolve_per_platform_backward
)


def _cotangents(function, x, kernel, cotangent):
    return jax.vjp(function, x, kernel)[1](cotangent)


def _plain_convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """XLA's convolution, which the other forms must equal; see `convolve`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _product(x, kernel, stride):
    """Computes a 1x1 convolution as a matrix product."""
    x = x[:, ::stride, ::stride]
    product = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return product.reshape(*x.shape[:-1], -1)


def _shifted_products(x, kernel, stride, padding):
    """Computes a depthwise convolution as a sum over the pixels of its kernel."""
    rows, columns = kernel.shape[:2]
    # Without the barrier, XLA would compute the padding and the operations before it
    # again for each pixel of the kernel.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    return sum(
        _shifted(x, i, j, (rows, columns), stride) * kernel[i, j, 0]
        for i in range(rows)
        for j in range(columns)
    )


def _shifted_products_cotangents(x, kernel, cotangent, stride, padding):
    """Returns the cotangents of the map and the kernel of `_shifted_products`."""
    rows, columns = kernel.shape[:2]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    padded, cotangent = jax.lax.optimization_barrier((padded, cotangent))

    def kernel_cotangent_at(pixel):
        shifted = _shifted_dynamically(
            padded, pixel // columns, pixel % columns, cotangent.shape, stride
        )
        return jnp.sum(shifted * cotangent, axis=(0, 1, 2), dtype=jnp.float32)

    # A loop, because XLA takes seconds to compile so many unrolled sums.
    kernel_cotangent = jax.lax.map(kernel_cotangent_at, jnp.arange(rows * columns))
    # The cotangent of the map is the output's cotangent, with zeros between its pixels
    # for the stride, convolved with the reversed kernel.
    spread = [
        _spreading(*lengths, kernel_length, before, stride)
        for *lengths, kernel_length, (before, _) in zip(
            x.shape[1:3], cotangent.shape[1:3], (rows, columns), padding, strict=True
        )
    ]
    zero = jnp.zeros((), cotangent.dtype)
    cotangent = jax.lax.pad(cotangent, zero, ((0, 0, 0), *spread, (0, 0, 0)))
    unpadded = ((0, 0), (0, 0))
    x_cotangent = _shifted_products(cotangent, kernel[::-1, ::-1], 1, unpadded)
    return x_cotangent, kernel_cotangent.reshape(kernel.shape).astype(kernel.dtype)


def _spreading(length, out_length, kernel_length, before, stride):
    """Returns the number of zeros before, after and between rows (or columns)."""
    low = kernel_length - 1 - before
    spread_length = (out_length - 1) * stride + 1
    return low, length + kernel_length - 1 - low - spread_length, stride - 1


def _shifted(x, i, j, size, stride):
    """Returns the pixels of the map that pixel `(i, j)` of the kernel multiplies."""
    bottom, right = (
        start + length - kernel_length + 1
        for start, length, kernel_length in zip((i, j), x.shape[1:3], size, strict=True)
    )
    return x[:, i:bottom:stride, j:right:stride]


def _shifted_dynamically(x, i, j, shape, stride):
    """Like `_shifted`, with traced `i` and `j`; `shape` is that of the result."""
    batch, height, width, channels = shape
    size = (batch, (height - 1) * stride + 1, (width - 1) * stride + 1, channels)
    return jax.lax.dynamic_slice(x, (0, i, j, 0), size)[:, ::stride, ::stride]


def _few_groups(x, kernel, stride, padding):
    """Computes a grouped convolution as several plain ones of a few groups each.

    The kernel of a plain convolution is zero between different groups.
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
            _plain_convolution(part, part_kernel, stride, padding)
            for part, part_kernel in zip(parts, kernel, strict=True)
        ],
        axis=-1,
    )
