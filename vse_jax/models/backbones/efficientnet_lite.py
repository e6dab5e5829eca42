"""EfficientNet-Lite: EfficientNets without squeeze-and-excitation, with ReLU6.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
(https://arxiv.org/abs/1905.11946). The Lite variants were published with TensorFlow's
code for TPUs. They do not scale the stem and the head.
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
    """Consecutive blocks that return maps of one resolution.

    Attributes:
      blocks: number of blocks.
      size: rows and columns of the depthwise kernels.
      stride: of the first block; the others have stride 1.
      expansion: factor by which a block expands its channels.
      features: output channels.
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
    """Returns the stages of Lite0, scaled.

    Args:
      width: factor of the channels, which are rounded to a multiple of 8.
      depth: factor of the blocks, which are rounded up. The first and the last stage
        are not scaled.
    """
    last = len(_LITE0) - 1
    return tuple(
        stage._replace(
            features=_round_channels(width * stage.features),
            blocks=stage.blocks if i in (0, last) else math.ceil(depth * stage.blocks),
        )
        for i, stage in enumerate(_LITE0)
    )


def _round_channels(channels):
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Block(nn.Module):
    """An inverted residual block of MobileNetV2 (https://arxiv.org/abs/1801.04381).

    It expands the channels, convolves each of them, and projects them linearly.
    """

    stage: StageSpec
    stride: int
    convolution: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to the features of the stage."""
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
      pooled: whether to average the regions.
      dtype: of the arithmetic.
      train: whether to normalize by the batch's statistics and update the running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
    """

    stages: tuple[StageSpec, ...]
    pooled: bool
    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 `[batch, height, width, 3]` to `[batch, regions, 1280]`.

        A region is 32 pixels high and wide. If `pooled`, the result is `[batch, 1280]`.
        """
        convolution = functools.partial(
            layers.ConvolutionNorm,
            dtype=self.dtype,
            train=self.train,
            gather_over_devices=self.gather_over_devices,
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
