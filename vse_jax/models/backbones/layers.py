"""Layers and functions that the convolutional networks share."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.kernels.convolution import convolve
from vse_jax.models.normalization import BatchNorm

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_DEVIATION = (58.395, 57.12, 57.375)


class ConvolutionNorm(nn.Module):
    """A convolution without bias, followed by batch normalization.

    Attributes:
      features: output channels.
      size: rows and columns of the kernel.
      dtype: of the arithmetic.
      train: whether to normalize by the batch's statistics and update the running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      stride: of rows and columns.
      groups: number of groups of channels, which are convolved separately.
      same_padding: whether to pad like TensorFlow's "SAME": as little as the stride
        needs, with an odd row below and an odd column at the right. If False, half the
        kernel is padded on each side, as in PyTorch's networks.
      epsilon: of the normalization.
    """

    features: int
    size: int
    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable
    stride: int = 1
    groups: int = 1
    same_padding: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to a map of `features` channels."""
        channels = x.shape[-1]
        shape = (self.size, self.size, channels // self.groups, self.features)
        # `variance_scaling` ignores groups. The true fan-out of a depthwise kernel is
        # what it calls the fan-in.
        fan = "fan_in" if self.groups == channels else "fan_out"
        init = nn.initializers.variance_scaling(2.0, fan, "normal")
        kernel = self.param("kernel", init, shape)
        norm = BatchNorm(
            self.train, self.gather_over_devices, epsilon=self.epsilon, name="norm"
        )
        if self.train:
            return norm(self._convolve(x, kernel)).astype(self.dtype)
        # Scaling the kernel instead of the result saves a pass over the pixels.
        factor, offset = norm.factor_and_offset(self.features)
        x = self._convolve(x, kernel * factor)
        return (x + offset).astype(self.dtype)

    def _convolve(self, x, kernel):
        padding = tuple(map(self._padding, x.shape[1:3]))
        return convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.stride,
            padding,
            self.groups,
        )

    def _padding(self, size):
        if not self.same_padding:
            return self.size // 2, self.size // 2
        covered = (-(-size // self.stride) - 1) * self.stride + self.size
        padding = max(0, covered - size)
        return padding // 2, padding - padding // 2


def normalize_pixels(
    image: jax.Array,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: jnp.dtype,
) -> jax.Array:
    """Returns `(image - mean) / std` of uint8 `[..., 3]` in `dtype`."""
    image = image.astype(jnp.float32) - jnp.array(mean, jnp.float32)
    return (image / jnp.array(std, jnp.float32)).astype(dtype)


def normalize_imagenet(image: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Normalizes uint8 `[..., 3]` as torchvision's networks expect."""
    return normalize_pixels(image, _IMAGENET_MEAN, _IMAGENET_DEVIATION, dtype)


def patches(x: jax.Array, size: int) -> jax.Array:
    """Reshapes `[batch, height, width, channels]` to a grid of flattened patches.

    Args:
      x: its height and width are multiples of `size`.
      size: rows and columns of a patch.

    Returns:
      `[batch, height // size, width // size, size * size * channels]`.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x.reshape(batch, rows, size, columns, size, channels)
    return x.swapaxes(2, 3).reshape(batch, rows, columns, size * size * channels)


def regions(x: jax.Array) -> jax.Array:
    """Reshapes `[batch, height, width, dim]` to `[batch, height * width, dim]`."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def regions_or_average(x: jax.Array, *, pooled: bool) -> jax.Array:
    """Returns the regions of `[batch, height, width, dim]`, or their float32 mean."""
    return regions(x).mean(1, dtype=jnp.float32) if pooled else regions(x)
