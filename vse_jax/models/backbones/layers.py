"""What the convolutional networks share."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.backbones import depthwise
from vse_jax.models.normalization import BatchNorm

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


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
        padding = [self._padding(size) for size in x.shape[1:3]]
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


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: Sequence[tuple[int, int]],
    groups: int = 1,
) -> jax.Array:
    """Convolves `[batch, height, width, channels]` with a kernel `[rows, columns, ...]`.

    The form is chosen by what was measured to be fast.
    """
    if kernel.shape[:2] == (1, 1) and groups == 1:
        # XLA's convolution takes up to twice the time of the product on a CPU.
        x = x[:, ::stride, ::stride]
        product = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return product.reshape(*x.shape[:-1], -1)
    if groups == x.shape[-1] == kernel.shape[-1]:
        return depthwise.convolve(x, kernel, stride, padding)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def normalize_pixels(
    image: jax.Array,
    mean: Sequence[float],
    deviation: Sequence[float],
    dtype: jnp.dtype,
) -> jax.Array:
    """Maps uint8 `[..., 3]` to `(image - mean) / deviation`, in `dtype`."""
    image = image.astype(jnp.float32) - jnp.array(mean, jnp.float32)
    return (image / jnp.array(deviation, jnp.float32)).astype(dtype)


def regions_or_average(x: jax.Array, *, pooled: bool) -> jax.Array:
    """The regions of a map, row by row, or their average.

    Args:
      x: `[batch, height, width, dim]`.
      pooled: whether to average them.

    Returns:
      `[batch, height * width, dim]`, or `[batch, dim]` in float32.
    """
    regions = x.reshape(x.shape[0], -1, x.shape[-1])
    return regions.mean(1, dtype=jnp.float32) if pooled else regions
