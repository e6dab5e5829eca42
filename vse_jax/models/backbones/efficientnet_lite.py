"""EfficientNet-Lite: EfficientNets without squeeze-and-excitation, with ReLU6.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
(https://arxiv.org/abs/1905.11946); the Lite variants were published with TensorFlow's
code for TPUs and leave the size of the stem and of the head as it is.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.backbones import layers

FEATURES = 1280
_STEM_FEATURES = 32
_MEAN, _DEVIATION = (127.0,) * 3, (128.0,) * 3


class StageSpec(NamedTuple):
    """Blocks of one resolution, of which the first has the stride.

    Attributes:
      blocks: how many.
      size: rows and columns of the depthwise kernels.
      stride: of the first.
      expansion: how many times the channels a block works on.
      features: channels that come out.
    """

    blocks: int
    size: int
    stride: int
    expansion: int
    features: int


_LITE0 = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)


def stages(width: float, depth: float) -> tuple[StageSpec, ...]:
    """The stages of Lite0, scaled.

    Args:
      width: times as many channels, rounded to a multiple of 8.
      depth: times as many blocks, rounded up; the first and the last stage keep theirs.
    """
    last = len(_LITE0) - 1
    return tuple(
        stage._replace(
            features=_round_channels(width * stage.features),
            blocks=stage.blocks if i in (0, last) else math.ceil(depth * stage.blocks),
        )
        for i, stage in enumerate(_LITE0)
    )


def _round_channels(channels, divisor=8):
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class Block(nn.Module):
    """Expands the channels, convolves each, and projects back; all but linear there.

    An inverted residual of MobileNetV2 (https://arxiv.org/abs/1801.04381).
    """

    stage: StageSpec
    stride: int
    convolution: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to a map of the stage's features."""
        channels = x.shape[-1]
        expanded = channels * self.stage.expansion
        hidden = x
        if expanded != channels:
            hidden = self.convolution(expanded, 1, name="expansion")(hidden)
            hidden = nn.relu6(hidden)
        depthwise = self.convolution(
            expanded,
            self.stage.size,
            stride=self.stride,
            groups=expanded,
            name="depthwise",
        )
        hidden = nn.relu6(depthwise(hidden))
        out = self.convolution(self.stage.features, 1, name="projection")(hidden)
        return x + out if x.shape == out.shape else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite of one size.

    Attributes:
      stages: see `stages`.
      pooled: average the regions.
      dtype: of the arithmetic.
      train: whether the batch's statistics are used and updated.
      sum_over_devices: adds a pytree up over all devices.
    """

    stages: tuple[StageSpec, ...]
    pooled: bool
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 `[batch, height, width, 3]` to `[batch, regions, 1280]`.

        A region is 32 pixels high and wide. If `pooled`, to `[batch, 1280]`.
        """
        convolution = functools.partial(
            layers.ConvolutionNorm,
            dtype=self.dtype,
            train=self.train,
            sum_over_devices=self.sum_over_devices,
            same_padding=True,
            epsilon=1e-3,
        )
        x = layers.normalize_pixels(image, _MEAN, _DEVIATION, self.dtype)
        x = nn.relu6(convolution(_STEM_FEATURES, 3, stride=2, name="stem")(x))
        for i, stage in enumerate(self.stages):
            for j in range(stage.blocks):
                block = Block(
                    stage,
                    stage.stride if j == 0 else 1,
                    convolution,
                    name=f"stage_{i}_block_{j}",
                )
                x = block(x)
        x = nn.relu6(convolution(FEATURES, 1, name="head")(x))
        return layers.regions_or_average(x, pooled=self.pooled)
