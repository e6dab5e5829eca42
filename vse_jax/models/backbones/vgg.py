"""VGG-19.

Very Deep Convolutional Networks for Large-Scale Image Recognition
(https://arxiv.org/abs/1409.1556).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.backbones import layers
from vse_jax.models.kernels.convolution import convolve
from vse_jax.models.pooling import adaptive_average_weights

FEATURES, POOLED_FEATURES = 512, 4096
CONVOLUTIONS = (2, 2, 4, 4, 4)  # of each stage
HIDDEN_LAYERS = 2
_WIDTHS = (64, 128, 256, 512, 512)
_HIDDEN_GRID = 7  # rows and columns of the hidden layers' input


class VGG19(nn.Module):
    """VGG-19 without batch normalization.

    Attributes:
      pooled: whether to apply the hidden layers.
      dtype: of the arithmetic.
    """

    pooled: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 `[batch, height, width, 3]` to `[batch, regions, 512]`.

        A region is 32 pixels high and wide. If `pooled`, the result is the output of
        the last hidden layer, `[batch, 4096]` float32.
        """
        x = layers.normalize_imagenet(image, self.dtype)
        for i, (count, features) in enumerate(zip(CONVOLUTIONS, _WIDTHS, strict=True)):
            for j in range(count):
                convolution = _Convolution(
                    features, self.dtype, name=f"stage_{i}_convolution_{j}"
                )
                x = nn.relu(convolution(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return self._hidden(x) if self.pooled else layers.regions(x)

    def _hidden(self, x):
        x = _adaptive_average(x, _HIDDEN_GRID)
        # PyTorch flattens the map in this order.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for i in range(HIDDEN_LAYERS):
            layer = nn.Dense(POOLED_FEATURES, dtype=self.dtype, name=f"hidden_{i}")
            x = nn.relu(layer(x))
        return x.astype(jnp.float32)


class _Convolution(nn.Module):
    """A 3x3 convolution with a bias."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = convolve(x, kernel.astype(self.dtype), 1, ((1, 1), (1, 1)))
        return x + bias.astype(self.dtype)


def _adaptive_average(x, size):
    """Averages a map to `size` rows and columns, as PyTorch's adaptive pooling does."""
    rows, columns = (
        jnp.array(adaptive_average_weights(length, size), x.dtype)
        for length in x.shape[1:3]
    )
    return jnp.einsum("rh,bhwd,cw->brcd", rows, x, columns)
