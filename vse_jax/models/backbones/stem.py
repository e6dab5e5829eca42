"""A small convolutional stem for small images: pixels to a grid of regions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.backbones import layers
from vse_jax.models.normalization import MaskedBatchNorm


class ConvolutionalStem(nn.Module):
    """Embeds patches, then halves the grid with each of its 3x3 convolutions.

    The input has two additional channels with the coordinates of each pixel. Captions
    mention positions, and the pooling of regions would lose them.

    Attributes:
      dtype: of the arithmetic.
      train: whether to normalize by the batch's statistics and update the running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      patch: height and width of a patch in pixels.
      features: channels of the embedded patches and of each convolution.
    """

    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable
    patch: int = 4
    features: tuple[int, ...] = (64, 96, 128)

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, 3]` uint8 to `[batch, regions, features]`.

        Height and width must be multiples of `patch`.
        """
        x = image.astype(jnp.float32) / 127.5 - 1
        x = jnp.concatenate([x, _coordinates(x.shape)], axis=-1)
        x = layers.patches(x, self.patch)
        patches = nn.Dense(
            self.features[0], use_bias=False, dtype=self.dtype, name="patches"
        )
        x = self._normalize(patches(x), "norm_0")
        for i, features in enumerate(self.features[1:], start=1):
            convolution = nn.Conv(
                features,
                (3, 3),
                (2, 2),
                use_bias=False,
                dtype=self.dtype,
                name=f"convolution_{i}",
            )
            x = self._normalize(convolution(x), f"norm_{i}")
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def _normalize(self, x, name):
        norm = MaskedBatchNorm(self.train, self.gather_over_devices, name=name)
        return nn.relu(norm(x, jnp.ones(x.shape[:-1], bool)))


def _coordinates(shape):
    batch, height, width, _ = shape
    y, x = jnp.meshgrid(
        jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij"
    )
    return jnp.broadcast_to(jnp.stack([y, x], -1), (batch, height, width, 2))
