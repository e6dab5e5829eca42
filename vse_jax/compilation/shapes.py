"""Shapes of the batches of a configuration, without its dataset."""

import jax
import jax.numpy as jnp
import ml_collections

from vse_jax.data.datasets.shapes import IMAGE_SIZE
from vse_jax.models.backbones import sizes_of, spec_of
from vse_jax.models.image_encoders import ENCODERS

Shapes = dict[str, jax.ShapeDtypeStruct]


def train_batch(config: ml_collections.ConfigDict, size: int, time: int) -> Shapes:
    """Returns the shapes of a training batch.

    Args:
      config: see `configs/common.py`.
      size: pairs over all devices.
      time: tokens per caption.
    """
    batch, views = _images(config, size, crops=1), config.loss.views
    if views == 1:
        return batch | caption_batch(size, time)
    return batch | {
        "view_regions": _array(size, views, batch["regions"].shape[1]),
        "view_region_count": _array(size, views),
        "tokens": _array(size, views, time),
        "token_count": _array(size, views),
    }


def image_batch(config: ml_collections.ConfigDict, size: int) -> Shapes:
    """Returns the shapes of a batch of images in evaluation."""
    return _images(config, size, crops=config.data.crops)


def caption_batch(size: int, time: int) -> Shapes:
    """Returns the shapes of a batch of captions in evaluation."""
    return {"tokens": _array(size, time), "token_count": _array(size)}


def _images(config, size, crops):
    batch = {"image_id": _array(size)}
    name, encoder = config.model.backbone.name, config.model.image_encoder
    if name:
        side = image_size(config)
        several = (crops,) if crops > 1 else ()
        image = _array(size, *several, side, side, 3, dtype=jnp.uint8)
        return batch | {"image": image}
    dim = config.data.region_dim or config.compile.dim
    if ENCODERS[encoder].content == "feature":
        return batch | {"feature": _array(size, dim, dtype=jnp.float32)}
    regions = _array(size, config.compile.regions, dim, dtype=jnp.float16)
    return batch | {"regions": regions, "region_count": _array(size)}


def image_size(config: ml_collections.ConfigDict) -> int:
    """Returns the height and width in pixels of the backbone's input."""
    if config.data.image_size:
        return config.data.image_size
    if config.data.builder == "shapes":
        return IMAGE_SIZE
    backbone = config.model.backbone
    return spec_of(backbone.name, sizes_of(backbone)).image_size


def _array(*shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)
