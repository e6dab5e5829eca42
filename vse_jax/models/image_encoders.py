"""Image encoders: from regions or one feature per image to embeddings.

An encoder maps a batch (a dict, see `vse_jax.data.input_pipeline`) to `[batch, embed]`.
The batch contains regions or features, or a backbone computes them from its photos.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.backbones import (
    VisionSizes,
    create_backbone,
    fast_apply,
    spec_of,
)
from vse_jax.models.dropout import Dropout
from vse_jax.models.normalization import MaskedBatchNorm, l2_normalize
from vse_jax.models.pooling import CLS, POOLINGS


class Backbone(NamedTuple):
    """A network that turns photos into regions or into one feature.

    Attributes:
      name: one of `backbones.BACKBONES`.
      trainable: whether any of its parameters is trained. If none is, the backbone is
        computed without gradients and always normalizes by the running statistics that
        came with its weights. VSE++'s published code differs: batch normalization stays
        in training mode while the CNN is frozen.
      train_norm: whether a trainable backbone normalizes by the batch's statistics in
        training and updates the running ones. If False, it normalizes by the running
        statistics that came with its weights.
      sizes: of a vision transformer; None for any other backbone.
    """

    name: str
    trainable: bool = True
    train_norm: bool = True
    sizes: VisionSizes | None = None


class RegionMLP(nn.Module):
    """Dense, batch normalization, ReLU, dense, over each region that exists."""

    embed_dim: int
    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable

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
            # The normalization removes the bias, so its gradient is rounding noise.
            # Adam would scale this noise to full steps in random directions.
            hidden_bias = jax.lax.stop_gradient(hidden_bias)
        hidden = hidden.astype(jnp.float32) + hidden_bias
        hidden = MaskedBatchNorm(self.train, self.gather_over_devices, name="norm")(
            hidden, exists
        )
        return initializers.torch_dense(
            self.embed_dim, hidden_dim, dtype=self.dtype, name="out"
        )(nn.relu(hidden))


class RegionEncoder(nn.Module):
    """Embeds regions: a projection, an MLP and a pooling.

    VSE-infinity computes `W r + b + MLP(r)` for each region `r`, and `W r + b` for the
    grid of a CNN that is trained with it. RVSE++ computes `f + MLP(f)` with
    `f = W r + b`.

    Attributes:
      embed_dim: dimensions of the embedding.
      residual: whether the input of the MLP is the projected regions (RVSE++) or the
        regions themselves (VSE-infinity).
      dtype: of the arithmetic; the pooling is in float32.
      train: whether to normalize by the batch's statistics and update the running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      pooling: one of `pooling.POOLINGS`.
      has_mlp: whether there is an MLP.
    """

    embed_dim: int
    residual: bool
    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable
    pooling: str = "gpo"
    has_mlp: bool = True

    @nn.compact
    def __call__(self, inputs: dict) -> jax.Array:
        """Embeds the regions of each image.

        Several views of an image pool some of its regions each. The layers before the
        pooling and their batch statistics see all its regions once, as in ESA.

        Args:
          inputs: `regions [batch, regions, dim]` and `region_count [batch]` int32. With
            several views, also `view_regions [batch, views, regions]` int32, indices of
            regions, and `view_region_count [batch, views]` int32: a view has the first
            so many of them.

        Returns:
          `[batch, embed]` float32, or `[batch, views, embed]`.
        """
        regions, region_count = inputs["regions"], inputs["region_count"]
        batch, count, dim = regions.shape
        exists = (jnp.arange(count) < region_count[:, None]).reshape(-1)
        # With one axis of all regions, the gradient of a dense layer needs no
        # transposed copy of its input.
        regions = regions.reshape(-1, dim)
        projected = initializers.xavier_dense(
            self.embed_dim, dtype=self.dtype, name="projection"
        )(regions)
        embedded = projected
        if self.has_mlp:
            mlp = RegionMLP(
                self.embed_dim,
                self.dtype,
                self.train,
                self.gather_over_devices,
                name="mlp",
            )
            embedded += mlp(projected if self.residual else regions, exists)
        embedded = embedded.astype(jnp.float32).reshape(batch, count, -1)
        pool = POOLINGS[self.pooling](self.dtype)
        if "view_regions" not in inputs:
            return pool(embedded, region_count)
        source, view_count = inputs["view_regions"], inputs["view_region_count"]
        index = source.reshape(batch, -1, 1)
        of_views = jnp.take_along_axis(embedded, index, axis=1)
        of_views = of_views.reshape(-1, count, self.embed_dim)
        pooled = pool(of_views, view_count.reshape(-1))
        return pooled.reshape(batch, -1, self.embed_dim)


class GlobalEncoder(nn.Module):
    """Projects one feature per image (VSE++)."""

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
        `gather_over_devices`, `pooling` and `name`.
      content: the content of a batch that it needs: `regions` or `feature`.
    """

    module: Callable[..., nn.Module]
    content: str


def _global(*, train, gather_over_devices, pooling, **kwargs):
    del train, gather_over_devices, pooling  # it has no batch normalization or regions
    return GlobalEncoder(**kwargs)


ENCODERS = {
    "region_residual": ImageEncoderSpec(
        functools.partial(RegionEncoder, residual=True), "regions"
    ),
    "region_parallel": ImageEncoderSpec(
        functools.partial(RegionEncoder, residual=False), "regions"
    ),
    "region_linear": ImageEncoderSpec(
        functools.partial(RegionEncoder, residual=False, has_mlp=False), "regions"
    ),
    "global": ImageEncoderSpec(_global, "feature"),
}


def takes_pooled(encoder: str, pooling: str) -> bool:
    """Returns whether an encoder takes one feature per photo from a backbone.

    With the pooling `cls` the only region of a photo is the class token, which is the
    pooled feature of the backbones that have one.

    Args:
      encoder: one of `ENCODERS`.
      pooling: one of `pooling.POOLINGS`.
    """
    return ENCODERS[encoder].content == "feature" or pooling == CLS


class ImageEncoder(nn.Module):
    """One of `ENCODERS`, after a backbone if the batch contains photos.

    Several crops of a photo, `[batch, crops, height, width, 3]`, are embedded
    separately and their embeddings averaged.

    Attributes:
      encoder: one of `ENCODERS`.
      embed_dim: dimensions of the embedding.
      dtype: of the arithmetic.
      train: whether batch normalization uses the batch's statistics and updates the
        running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      backbone: computes regions or a feature from photos.
      pooling: of regions, one of `pooling.POOLINGS`.
      dropout: rate of dropout of the regions or the feature.
    """

    encoder: str
    embed_dim: int
    dtype: jnp.dtype
    train: bool
    gather_over_devices: Callable
    backbone: Backbone | None = None
    pooling: str = "gpo"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, batch: dict) -> jax.Array:
        """Maps a batch to `[batch, embed]` float32, not normalized."""
        encode = ENCODERS[self.encoder].module(
            embed_dim=self.embed_dim,
            dtype=self.dtype,
            train=self.train,
            gather_over_devices=self.gather_over_devices,
            pooling=self.pooling,
            name="encoder",
        )
        if self.backbone is None:
            return encode(self._with_dropout(batch, batch))
        *crops, height, width, channels = batch["image"].shape
        image = batch["image"].reshape(-1, height, width, channels)
        inputs = self._with_dropout(self._apply_backbone(image), batch)
        embedded = encode(inputs)
        return embedded.reshape(*crops, -1).mean(range(1, len(crops)))

    def _with_dropout(self, inputs, batch):
        if not self.dropout:
            return inputs
        content = ENCODERS[self.encoder].content
        rows = inputs[content].astype(self.dtype)
        dropout = Dropout(self.dropout, name="dropout")
        return {**inputs, content: dropout(rows, batch.get("image_id"))}

    def _apply_backbone(self, image):
        """Maps `[batch, height, width, 3]` to the input of the encoder."""
        backbone = create_backbone(
            self.backbone.name,
            self.backbone.sizes,
            pooled=takes_pooled(self.encoder, self.pooling),
            dtype=self.dtype,
            train=self.train and self.backbone.trainable and self.backbone.train_norm,
            gather_over_devices=self.gather_over_devices,
            name="backbone",
        )
        if self.is_initializing() or (self.train and self.backbone.trainable):
            output = backbone(image)
        else:
            output = self._apply_without_gradient(backbone, image)
        if ENCODERS[self.encoder].content == "feature":
            return {"feature": l2_normalize(output)}  # as VSE++ does
        if self.pooling == CLS:
            output = output[:, None]
        region_count = jnp.full(output.shape[0], output.shape[1], jnp.int32)
        return {"regions": output, "region_count": region_count}

    def _apply_without_gradient(self, backbone, image):
        module, variables = backbone.unbind()
        apply = fast_apply(spec_of(self.backbone.name, self.backbone.sizes), module)
        # Stopped before the loop over pieces, or its gradient would store the output of
        # each layer.
        return apply(jax.lax.stop_gradient(variables), image)
