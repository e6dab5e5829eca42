"""Image encoders: from regions or one feature per image to embeddings.

An encoder maps a batch (a dict, see `vse_jax.data.input_pipeline`) to `[batch, embed]`.
Its regions or features come with the batch, or a backbone computes them from photos.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.backbones import create_backbone, fast_apply
from vse_jax.models.normalization import MaskedBatchNorm, l2_normalize
from vse_jax.models.pooling import POOLINGS


class Backbone(NamedTuple):
    """A network that turns photos into regions or into one feature.

    Attributes:
      name: one of `backbones.BACKBONES`.
      trainable: whether any of its parameters is trained. If none is, it is computed
        without gradients and, in training too, with the statistics of its weights. The
        published code of VSE++ differs: it keeps batch normalization in training mode
        while the CNN is frozen.
      train_norm: whether, if it is trained, its batch normalization uses and updates
        the batch's statistics in training, rather than those of its weights.
    """

    name: str
    trainable: bool = True
    train_norm: bool = True


class RegionMLP(nn.Module):
    """Dense, batch normalization, ReLU, dense, over each region that exists."""

    embed_dim: int
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable

    @nn.compact
    def __call__(self, regions: jax.Array, exists: jax.Array) -> jax.Array:
        """Maps `[regions, dim]`, bool `[regions]` to `[regions, embed]`."""
        inputs, hidden_dim = regions.shape[-1], self.embed_dim // 2
        hidden = initializers.torch_dense(
            hidden_dim, inputs, use_bias=False, dtype=self.dtype, name="hidden"
        )(regions)
        bias_init = initializers.uniform(inputs**-0.5)
        hidden_bias = self.param("hidden_bias", bias_init, (hidden_dim,))
        if self.train:
            # The normalization takes the bias out again: its gradient is zero but for
            # rounding, which Adam would scale up to whole steps in random directions.
            hidden_bias = jax.lax.stop_gradient(hidden_bias)
        hidden = hidden.astype(jnp.float32) + hidden_bias
        hidden = MaskedBatchNorm(self.train, self.sum_over_devices, name="norm")(
            hidden, exists
        )
        return initializers.torch_dense(
            self.embed_dim, hidden_dim, dtype=self.dtype, name="out"
        )(nn.relu(hidden))


class RegionEncoder(nn.Module):
    """Regions to an embedding: projection, MLP, generalized pooling.

    VSE-infinity computes `W r + b + MLP(r)` for each region `r`, RVSE++ computes
    `f + MLP(f)` with `f = W r + b`.

    Attributes:
      embed_dim: dimensions of the embedding.
      residual: whether the MLP takes the projected regions (RVSE++) or the raw ones
        (VSE-infinity).
      dtype: of the arithmetic; the pooling is in float32.
      train: whether the batch's statistics are used and updated.
      sum_over_devices: adds a pytree up over all devices.
      pooling: one of `pooling.POOLINGS`.
    """

    embed_dim: int
    residual: bool
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable
    pooling: str = "gpo"

    @nn.compact
    def __call__(self, inputs: dict) -> jax.Array:
        """Maps `regions [batch, regions, dim]`, `region_count [batch]` int32.

        Returns:
          `[batch, embed]` float32.
        """
        regions, region_count = inputs["regions"], inputs["region_count"]
        batch, count, dim = regions.shape
        exists = (jnp.arange(count) < region_count[:, None]).reshape(-1)
        # One axis of all regions: the gradient of a dense layer over two axes would
        # take a transposed copy of its inputs.
        regions = regions.reshape(-1, dim)
        projected = initializers.xavier_dense(
            self.embed_dim, dtype=self.dtype, name="projection"
        )(regions)
        mlp = RegionMLP(
            self.embed_dim, self.dtype, self.train, self.sum_over_devices, name="mlp"
        )
        embedded = projected + mlp(projected if self.residual else regions, exists)
        embedded = embedded.astype(jnp.float32).reshape(batch, count, -1)
        return POOLINGS[self.pooling]()(embedded, region_count)


class GlobalEncoder(nn.Module):
    """One feature per image, projected (VSE++)."""

    embed_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: dict) -> jax.Array:
        """Maps `feature [batch, dim]` to `[batch, embed]` float32."""
        project = initializers.xavier_dense(
            self.embed_dim, dtype=self.dtype, name="projection"
        )
        return project(inputs["feature"]).astype(jnp.float32)


class ImageEncoderSpec(NamedTuple):
    """An image encoder and its input.

    Attributes:
      module: returns the Flax module, given `embed_dim`, `dtype`, `train`,
        `sum_over_devices`, `pooling` and `name`.
      content: what it needs of a batch: `regions` or `feature`.
    """

    module: Callable[..., nn.Module]
    content: str


def _global(*, train, sum_over_devices, pooling, **kwargs):
    del train, sum_over_devices, pooling  # it has no batch normalization, nor regions
    return GlobalEncoder(**kwargs)


ENCODERS = {
    "region_residual": ImageEncoderSpec(
        functools.partial(RegionEncoder, residual=True), "regions"
    ),
    "region_parallel": ImageEncoderSpec(
        functools.partial(RegionEncoder, residual=False), "regions"
    ),
    "global": ImageEncoderSpec(_global, "feature"),
}


class ImageEncoder(nn.Module):
    """One of `ENCODERS`, behind a backbone if the batch has photos.

    Several crops of a photo, `[batch, crops, height, width, 3]`, are embedded one by
    one and averaged.

    Attributes:
      encoder: one of `ENCODERS`.
      embed_dim: dimensions of the embedding.
      dtype: of the arithmetic.
      train: whether batch normalization uses and updates the batch's statistics.
      sum_over_devices: adds a pytree up over all devices.
      backbone: computes regions or a feature from photos.
      pooling: of regions, one of `pooling.POOLINGS`.
    """

    encoder: str
    embed_dim: int
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable
    backbone: Backbone | None = None
    pooling: str = "gpo"

    @nn.compact
    def __call__(self, batch: dict) -> jax.Array:
        """Maps a batch to `[batch, embed]` float32, not normalized."""
        encode = ENCODERS[self.encoder].module(
            embed_dim=self.embed_dim,
            dtype=self.dtype,
            train=self.train,
            sum_over_devices=self.sum_over_devices,
            pooling=self.pooling,
            name="encoder",
        )
        if self.backbone is None:
            return encode(batch)
        *crops, height, width, channels = batch["image"].shape
        image = batch["image"].reshape(-1, height, width, channels)
        embedded = encode(self._see(image))
        return embedded.reshape(*crops, -1).mean(range(1, len(crops)))

    def _see(self, image):
        """Maps `[batch, height, width, 3]` to the input of the encoder."""
        pooled = ENCODERS[self.encoder].content == "feature"
        backbone = create_backbone(
            self.backbone.name,
            pooled=pooled,
            dtype=self.dtype,
            train=self.train and self.backbone.trainable and self.backbone.train_norm,
            sum_over_devices=self.sum_over_devices,
            name="backbone",
        )
        if self.is_initializing() or (self.train and self.backbone.trainable):
            seen = backbone(image)
        else:
            seen = self._see_without_gradient(backbone, image)
        if pooled:
            return {"feature": l2_normalize(seen)}  # as VSE++ does
        region_count = jnp.full(seen.shape[0], seen.shape[1], jnp.int32)
        return {"regions": seen, "region_count": region_count}

    def _see_without_gradient(self, backbone, image):
        module, variables = backbone.unbind()
        apply = fast_apply(self.backbone.name, module)
        # Stopped before the loop, or its gradient would keep what each layer gave.
        return apply(jax.lax.stop_gradient(variables), image)
