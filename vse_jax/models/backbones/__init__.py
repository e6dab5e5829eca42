"""Backbones: networks from pixels to a grid of regions or one feature.

Convolutional networks have one size per name. Those of a vision transformer come from
its weights, see `VisionSizes`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from vse_jax.models.backbones.efficientnet_lite import EfficientNetLite, stages
from vse_jax.models.backbones.resnet import ResNet
from vse_jax.models.backbones.stem import ConvolutionalStem
from vse_jax.models.backbones.vgg import VGG19
from vse_jax.models.backbones.vision_transformer import (
    FAMILIES,
    VisionSizes,
    VisionTransformer,
)
from vse_jax.models.kernels.batch_pieces import apply_in_pieces


class Spec(NamedTuple):
    """Properties of a backbone.

    Attributes:
      module: returns the Flax module, given `pooled`, `dtype`, `train` and
        `gather_over_devices`.
      dim: dimensions of a region.
      pooled_dim: dimensions of the pooled feature; 0 if the backbone has none.
      image_size: height and width in pixels for which it was published.
      region_size: minimum height and width in pixels. An image of this size has one
        region.
      multiple: height and width must be multiples of this number, or `image_size`.
      photos_at_once: number of photos that a CPU processes fastest; 0 for the whole
        batch.
      class_token: whether the pooled feature is that of a class token.
    """

    module: Callable[..., nn.Module]
    dim: int
    pooled_dim: int
    image_size: int = 224
    region_size: int = 32
    multiple: int = 1
    photos_at_once: int = 0
    class_token: bool = False


def _efficientnet_lite(width, depth, image_size):
    module = functools.partial(EfficientNetLite, stages(width, depth))
    return Spec(module, 1280, 1280, image_size, photos_at_once=4)


def _resnet(*blocks, **kwargs):
    return Spec(functools.partial(ResNet, blocks, **kwargs), 2048, 2048)


def _vgg19(*, train, gather_over_devices, **kwargs):
    del train, gather_over_devices  # it has no batch normalization
    return VGG19(**kwargs)


def _stem(*, pooled, **kwargs):
    if pooled:
        raise ValueError("the stem has no pooled feature")
    return ConvolutionalStem(**kwargs)


SPECS = {
    "stem": Spec(_stem, 128, 0, region_size=16, multiple=4),
    "resnet50": _resnet(3, 4, 6, 3),
    "resnet101": _resnet(3, 4, 23, 3),
    "resnet152": _resnet(3, 8, 36, 3),
    "resnext101_32x8d": _resnet(3, 4, 23, 3, groups=32, group_width=8),
    "bottom_up_resnet101": _resnet(3, 4, 23, 3, caffe=True, bottom_up=True),
    "caffe_resnet50": _resnet(3, 4, 6, 3, caffe=True),
    "caffe_resnet101": _resnet(3, 4, 23, 3, caffe=True),
    "caffe_resnet152": _resnet(3, 8, 36, 3, caffe=True),
    "vgg19": Spec(_vgg19, 512, 4096),
    "efficientnet_lite0": _efficientnet_lite(1.0, 1.0, 224),
    "efficientnet_lite1": _efficientnet_lite(1.0, 1.1, 240),
    "efficientnet_lite2": _efficientnet_lite(1.1, 1.2, 260),
    "efficientnet_lite3": _efficientnet_lite(1.2, 1.4, 280),
    "efficientnet_lite4": _efficientnet_lite(1.4, 1.8, 300),
}
BACKBONES = (*SPECS, *FAMILIES)


def spec_of(architecture: str, sizes: VisionSizes | None = None) -> Spec:
    """Returns the properties of one of `BACKBONES`.

    Args:
      architecture: one of `BACKBONES`.
      sizes: of a vision transformer; None for any other backbone.
    """
    if sizes is None:
        return SPECS[architecture]
    family = FAMILIES[architecture]
    return Spec(
        functools.partial(_vision_transformer, family, sizes),
        sizes.dim,
        sizes.dim,
        sizes.image_size,
        region_size=sizes.patch,
        multiple=sizes.patch,
        class_token=family.class_token,
    )


def sizes_of(options: ml_collections.ConfigDict) -> VisionSizes | None:
    """Returns the sizes of a vision transformer; None for any other backbone.

    Args:
      options: `config.model.backbone`, with the sizes of its weights.
    """
    if options.name not in FAMILIES:
        return None
    sizes = VisionSizes(**options.tower)
    return sizes._replace(mean=tuple(sizes.mean), std=tuple(sizes.std))


def _vision_transformer(family, sizes, *, train, gather_over_devices, **kwargs):
    del train, gather_over_devices  # it has no batch normalization
    return VisionTransformer(family, sizes, **kwargs)


def create_backbone(
    architecture: str,
    sizes: VisionSizes | None = None,
    *,
    pooled: bool,
    dtype: jnp.dtype = jnp.float32,
    train: bool = False,
    gather_over_devices: Callable = lambda array: array,
    **kwargs,
) -> nn.Module:
    """Returns one of `BACKBONES`.

    It maps RGB images, uint8 `[batch, height, width, 3]`, to `[batch, regions, dim]`,
    row by row, or to `[batch, pooled_dim]`. It normalizes the pixels itself. Its
    variables are in the collections `params` and `batch_stats`.

    Args:
      architecture: one of `BACKBONES`.
      sizes: of a vision transformer; None for any other backbone.
      pooled: whether to return one feature instead of regions: the last hidden layer of
        VGG-19, a transformer's own pooled feature, or the average of the regions of any
        other backbone.
      dtype: of the arithmetic, float32 or bfloat16; parameters are float32.
      train: whether to normalize by the batch's statistics over all devices and to
        update the running statistics. If False, the running statistics are used.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      **kwargs: arguments of any Flax module, such as `name`.

    Raises:
      ValueError: if the backbone has no pooled feature.
    """
    return spec_of(architecture, sizes).module(
        pooled=pooled,
        dtype=dtype,
        train=train,
        gather_over_devices=gather_over_devices,
        **kwargs,
    )


def fast_apply(
    spec: Spec, backbone: nn.Module
) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns the fastest form of `backbone.apply` for the platform.

    Args:
      spec: properties of the backbone.
      backbone: made by `create_backbone` with `train=False`. No gradient may be taken
        through it.
    """
    return apply_in_pieces(backbone, spec.photos_at_once)
