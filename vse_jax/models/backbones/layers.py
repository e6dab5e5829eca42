"""What the convolutional networks share."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.kernels.convolution import convolve
from vse_jax.models.normalization import BatchNorm

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_DEVIATION = (58.395, 57.12, 57.375)


class ConvolutionNorm(nn.Module):
    """A convolution without bias and its batch normalization.

    Attributes:
      features: channels that come out.
      size: rows and columns of the kernel.
      dtype: of the arithmetic.
      train: whether the batch's statistics are used and updated.
      sum_over_devices: adds a pytree up over all devices.
      stride: of the rows and the columns.
      groups: of channels that are convolved among themselves.
      same_padding: pad as TensorFlow's "same" does, by what the stride leaves to be
        covered and rather below than above; else by half the kernel on every side, as
        PyTorch's networks do.
      epsilon: of the normalization.
    """

    features: int
    size: int
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable
    stride: int = 1
    groups: int = 1
    same_padding: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to as many rows as stride leaves."""
        channels = x.shape[-1]
        shape = (self.size, self.size, channels // self.groups, self.features)
        # The fan-out of a depthwise convolution is that of one channel.
        fan = "fan_in" if self.groups == channels else "fan_out"
        init = nn.initializers.variance_scaling(2.0, fan, "normal")
        kernel = self.param("kernel", init, shape)
        norm = BatchNorm(
            self.train, self.sum_over_devices, epsilon=self.epsilon, name="norm"
        )
        if self.train:
            return norm(self._convolve(x, kernel)).astype(self.dtype)
        # The multiplication moves into the kernel: one pass less over the pixels.
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
    deviation: Sequence[float],
    dtype: jnp.dtype,
) -> jax.Array:
    """Maps uint8 `[..., 3]` to `(image - mean) / deviation`, in `dtype`."""
    image = image.astype(jnp.float32) - jnp.array(mean, jnp.float32)
    return (image / jnp.array(deviation, jnp.float32)).astype(dtype)


def normalize_imagenet(image: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Brings uint8 `[..., 3]` to the scale of torchvision's networks."""
    return normalize_pixels(image, _IMAGENET_MEAN, _IMAGENET_DEVIATION, dtype)


def regions(x: jax.Array) -> jax.Array:
    """`[batch, height, width, dim]` to `[batch, height * width, dim]`, row by row."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def regions_or_average(x: jax.Array, *, pooled: bool) -> jax.Array:
    """The regions of `[batch, height, width, dim]`, or their average in float32."""
    return regions(x).mean(1, dtype=jnp.float32) if pooled else regions(x)
