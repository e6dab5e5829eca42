"""ResNet and ResNeXt with bottleneck blocks, in torchvision's or Caffe's layout.

Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385).
Aggregated Residual Transformations for Deep Neural Networks
(https://arxiv.org/abs/1611.05431). Bottom-Up and Top-Down Attention for Image
Captioning and Visual Question Answering (https://arxiv.org/abs/1707.07998), whose
network was trained in Caffe.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.backbones import layers

FEATURES = 2048
_STEM_FEATURES = 64
_EXPANSION = 4
_BOTTOM_UP_MEAN = (122.7717, 115.9465, 102.9801)  # RGB
_BOTTOM_UP_DEVIATION = (1.0, 1.0, 1.0)


class Bottleneck(nn.Module):
    """A residual block: a 1x1, a 3x3 and a 1x1 convolution, added to the input.

    Attributes:
      features: channels of the 3x3 convolution of a plain ResNet. The block has four
        times as many output channels.
      stride: of the block.
      caffe: whether the first convolution has the stride, as in Caffe, rather than the
        3x3 convolution.
      groups: number of groups of the 3x3 convolution.
      group_width: channels in each group per 64 `features`.
      convolution: returns a `ConvolutionNorm`.
    """

    features: int
    stride: int
    caffe: bool
    groups: int
    group_width: int
    convolution: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `4 * features` channels."""
        width = self.features * self.group_width // 64 * self.groups
        out_features = self.features * _EXPANSION
        strides = (self.stride, 1) if self.caffe else (1, self.stride)
        first = self.convolution(width, 1, stride=strides[0], name="convolution_1")
        second = self.convolution(
            width, 3, stride=strides[1], groups=self.groups, name="convolution_2"
        )
        third = self.convolution(out_features, 1, name="convolution_3")
        out = third(nn.relu(second(nn.relu(first(x)))))
        if x.shape != out.shape:
            x = self.convolution(out_features, 1, stride=self.stride, name="shortcut")(
                x
            )
        return nn.relu(x + out)


class ResNet(nn.Module):
    """ResNet or ResNeXt, in torchvision's layout or in Caffe's.

    In torchvision's layout the 3x3 convolution of a block has the stride (version 1.5).
    vse_infty computes ResNets in Caffe's layout, also with torchvision's weights.

    Attributes:
      blocks: number of blocks of each of the four stages.
      pooled: whether to average the regions.
      dtype: of the arithmetic.
      train: whether to normalize by the batch's statistics and update the running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      caffe: whether the layout is Caffe's: 1x1 convolutions have the strides, and the
        max pooling is padded at the end only.
      bottom_up: whether pixels are BGR with only their mean subtracted, as in the
        bottom-up-attention network, rather than normalized as by torchvision.
      groups: number of groups of the 3x3 convolutions.
      group_width: channels in each group of the first stage.
    """

    blocks: Sequence[int]
    pooled: bool
    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable
    caffe: bool = False
    bottom_up: bool = False
    groups: int = 1
    group_width: int = 64

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 `[batch, height, width, 3]` to `[batch, regions, 2048]`.

        A region is 32 pixels high and wide. If `pooled`, the result is `[batch, 2048]`.
        """
        convolution = functools.partial(
            layers.ConvolutionNorm,
            dtype=self.dtype,
            train=self.train,
            gather_over_devices=self.gather_over_devices,
        )
        x = self._normalize(image)
        x = nn.relu(convolution(_STEM_FEATURES, 7, stride=2, name="stem")(x))
        x = self._pool(x)
        for i, blocks in enumerate(self.blocks):
            for j in range(blocks):
                x = Bottleneck(
                    features=_STEM_FEATURES * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    caffe=self.caffe,
                    groups=self.groups,
                    group_width=self.group_width,
                    convolution=convolution,
                    name=f"stage_{i}_block_{j}",
                )(x)
        return layers.regions_or_average(x, pooled=self.pooled)

    def _normalize(self, image):
        if self.bottom_up:
            # BGR, as OpenCV reads images.
            x = layers.normalize_pixels(
                image, _BOTTOM_UP_MEAN, _BOTTOM_UP_DEVIATION, self.dtype
            )
            return x[..., ::-1]
        return layers.normalize_imagenet(image, self.dtype)

    def _pool(self, x):
        if not self.caffe:
            return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        # Where a length is even, the last window extends beyond the map.
        padding = [(0, (length + 1) % 2) for length in x.shape[1:3]]
        return nn.max_pool(x, (3, 3), (2, 2), padding)
