"""A small convolutional stem for small pictures: pixels to a grid of regions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.normalization import MaskedBatchNorm


class ConvolutionalStem(nn.Module):
    """Strided 3x3 convolutions; every one halves height and width.

    Two channels with each pixel's coordinates are added to the input, since pooling
    forgets where a region was, and captions speak of it.

    Attributes:
      dtype: of the arithmetic.
      train: whether the batch's statistics are used and updated.
      sum_over_devices: adds a pytree up over all devices.
      features: channels after each convolution.
    """

    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable
    features: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, 3]` uint8 to `[batch, regions, features]`."""
        x = image.astype(jnp.float32) / 127.5 - 1
        x = jnp.concatenate([x, _coordinates(x.shape)], axis=-1)
        for i, features in enumerate(self.features):
            convolution = nn.Conv(
                features,
                (3, 3),
                (2, 2),
                use_bias=False,
                dtype=self.dtype,
                name=f"convolution_{i}",
            )
            x = convolution(x)
            norm = MaskedBatchNorm(self.train, self.sum_over_devices, name=f"norm_{i}")
            x = nn.relu(norm(x, jnp.ones(x.shape[:-1], bool)))
        return x.reshape(x.shape[0], -1, x.shape[-1])


def _coordinates(shape):
    batch, height, width, _ = shape
    y, x = jnp.meshgrid(
        jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij"
    )
    return jnp.broadcast_to(jnp.stack([y, x], -1), (batch, height, width, 2))
