"""ResNet and ResNeXt with bottleneck blocks, and the bottom-up-attention ResNet.

Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385);
Aggregated Residual Transformations for Deep Neural Networks
(https://arxiv.org/abs/1611.05431); Bottom-Up and Top-Down Attention for Image
Captioning and Visual Question Answering (https://arxiv.org/abs/1707.07998), whose
network was trained with Caffe.
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
_CAFFE_MEAN = (122.7717, 115.9465, 102.9801)  # in the order of RGB
_CAFFE_DEVIATION = (1.0, 1.0, 1.0)


class Bottleneck(nn.Module):
    """Projects the channels down, convolves 3x3, projects up, and adds the input.

    Attributes:
      features: of the 3x3 convolution of a plain ResNet; four times as many come out.
      stride: of the first convolution, or of the second.
      caffe: whether the stride is in the first, which is 1x1, as in Caffe's.
      groups: of the 3x3 convolution.
      group_width: its channels in each group, for every 64 of `features`.
      convolution: makes a `ConvolutionNorm`.
    """

    features: int
    stride: int
    caffe: bool
    groups: int
    group_width: int
    convolution: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to four times the features."""
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
    """ResNet in torchvision's layout, ResNeXt, or the bottom-up-attention ResNet.

    torchvision's has the stride of a block in the 3x3 convolution, which is known as
    version 1.5.

    Attributes:
      blocks: of each of the four stages.
      pooled: average the regions.
      dtype: of the arithmetic.
      train: whether the batch's statistics are used and updated.
      sum_over_devices: adds a pytree up over all devices.
      caffe: as Caffe computes it: strides in 1x1 convolutions, windows of the pooling
        from the first pixel on and over the last, pixels less their mean only.
      groups: of the 3x3 convolutions.
      group_width: channels in each group, in the first stage.
    """

    blocks: Sequence[int]
    pooled: bool
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable
    caffe: bool = False
    groups: int = 1
    group_width: int = 64

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 `[batch, height, width, 3]` to `[batch, regions, 2048]`.

        A region is 32 pixels high and wide. If `pooled`, to `[batch, 2048]`.
        """
        convolution = functools.partial(
            layers.ConvolutionNorm,
            dtype=self.dtype,
            train=self.train,
            sum_over_devices=self.sum_over_devices,
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
        if self.caffe:
            # Blue comes first, as OpenCV reads it.
            x = layers.normalize_pixels(
                image, _CAFFE_MEAN, _CAFFE_DEVIATION, self.dtype
            )
            return x[..., ::-1]
        return layers.normalize_imagenet(image, self.dtype)

    def _pool(self, x):
        if not self.caffe:
            return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        # The last window reaches beyond the map where its length is even.
        padding = [(0, (length + 1) % 2) for length in x.shape[1:3]]
        return nn.max_pool(x, (3, 3), (2, 2), padding)
