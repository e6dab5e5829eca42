"""Image encoders: from regions or a global feature to embeddings.

Regions and features are the batch's own, or a backbone makes them of its photos. All of
them map a batch (a dict, see `vse_jax.data.input_pipeline`) to `[batch, dim]`.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.backbones import create_backbone, fast_apply
from vse_jax.models.normalization import MaskedBatchNorm, l2_normalize
from vse_jax.models.pooling import GeneralizedPooling

ENCODERS = ("region_residual", "region_parallel", "global")


class Backbone(NamedTuple):
    """A network that turns photos into regions or into one feature.

    Attributes:
      name: one of `backbones.BACKBONES`.
      trainable: whether gradients reach it.
      train_norm: whether its batch normalization uses and updates the batch's
        statistics in training, rather than those that came with its weights.
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

    Attributes:
      embed_dim: dimensions of the embedding.
      residual: feed the MLP with the projected regions and add what it gives to them
        (RVSE++); else feed it with the raw regions (VSE-infinity).
      dtype: of the arithmetic; the pooling is in float32.
      train: whether the batch's statistics are used and updated.
      sum_over_devices: adds a pytree up over all devices.
    """

    embed_dim: int
    residual: bool
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable

    @nn.compact
    def __call__(self, regions: jax.Array, region_count: jax.Array) -> jax.Array:
        """Maps `[batch, regions, dim]`, `[batch]` int32 to `[batch, embed]`."""
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
        return GeneralizedPooling(name="pooling")(embedded, region_count)


class GlobalEncoder(nn.Module):
    """One feature per image, projected (VSE++)."""

    embed_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, feature: jax.Array) -> jax.Array:
        """Maps `[batch, dim]` to `[batch, embed]`."""
        project = initializers.xavier_dense(
            self.embed_dim, dtype=self.dtype, name="projection"
        )
        return project(feature).astype(jnp.float32)


class ImageEncoder(nn.Module):
    """The encoder that `kind` names, one of `ENCODERS`; behind a backbone, if any.

    Several crops of a photo, `[batch, crops, height, width, 3]`, are embedded each on
    its own, and averaged.
    """

    kind: str
    embed_dim: int
    dtype: jnp.dtype
    train: bool
    sum_over_devices: Callable
    backbone: Backbone | None = None

    @nn.compact
    def __call__(self, batch: dict) -> jax.Array:
        """Maps a batch to `[batch, embed]` float32, not normalized."""
        if self.backbone is None:
            return self._encode(batch)
        *crops, height, width, channels = batch["image"].shape
        image = batch["image"].reshape(-1, height, width, channels)
        embedded = self._encode(self._see(image))
        return embedded.reshape(*crops, -1).mean(range(1, len(crops)))

    def _see(self, image):
        """What the backbone makes of `[batch, height, width, 3]`, as a batch."""
        pooled = self.kind == "global"
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

    def _encode(self, batch):
        if self.kind == "global":
            return GlobalEncoder(self.embed_dim, self.dtype, name="encoder")(
                batch["feature"]
            )
        encoder = RegionEncoder(
            self.embed_dim,
            residual=self.kind == "region_residual",
            dtype=self.dtype,
            train=self.train,
            sum_over_devices=self.sum_over_devices,
            name="encoder",
        )
        return encoder(batch["regions"], batch["region_count"])
