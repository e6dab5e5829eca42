"""Vision transformers: CLIP's and SigLIP's image towers, and DINOv2.

CLIP: Learning Transferable Visual Models From Natural Language Supervision
(https://arxiv.org/abs/2103.00020). SigLIP: Sigmoid Loss for Language Image Pre-Training
(https://arxiv.org/abs/2303.15343). DINOv2: Learning Robust Visual Features without
Supervision (https://arxiv.org/abs/2304.07193). Registers: Vision Transformers Need
Registers (https://arxiv.org/abs/2309.16588).

The regions are the patches after the model's last normalization. For SigLIP and DINOv2
these are the published patch features. CLIP was trained with this normalization for its
class token only; here it applies to the patches too, as their values have outliers
without it.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.backbones import layers
from vse_jax.models.transformers.attention import SelfAttention
from vse_jax.models.transformers.blocks import MLP, PreNormBlock, layer_norm
from vse_jax.models.transformers.positions import resized_positions


class Family(NamedTuple):
    """What distinguishes the vision transformers of a publication.

    Attributes:
      class_token: whether a class token precedes the patches. Its output is the pooled
        feature. Without one, an attention pools the patches.
      patch_bias: whether the embedding of patches has a bias.
      pre_norm: whether the embedded items are normalized before the first block.
      layer_scale: see `PreNormBlock`.
    """

    class_token: bool
    patch_bias: bool
    pre_norm: bool
    layer_scale: bool


FAMILIES = {
    "clip_vision": Family(True, patch_bias=False, pre_norm=True, layer_scale=False),
    "siglip_vision": Family(False, patch_bias=True, pre_norm=False, layer_scale=False),
    "dinov2": Family(True, patch_bias=True, pre_norm=False, layer_scale=True),
}


class VisionSizes(NamedTuple):
    """The sizes of one model, from the `config.json` of its weights.

    Attributes:
      dim: dimensions of an item.
      layers: number of blocks.
      heads: of each attention.
      mlp_dim: dimensions of the MLPs' hidden layers.
      patch: height and width of a patch in pixels.
      image_size: height and width in pixels of the images of the pretraining, which
        give the grid of position embeddings.
      registers: number of tokens that are dropped at the end; 0 for none.
      activation: one of `activations.ACTIVATIONS`.
      epsilon: of the normalizations.
      gated: whether the MLPs have gates.
      mean, std: of RGB, for pixels from 0 to 1.
      antialias: whether smaller grids get smoothed position embeddings, as all models
        with registers do. Their architecture may have none.
    """

    dim: int
    layers: int
    heads: int
    mlp_dim: int
    patch: int
    image_size: int
    registers: int
    activation: str
    epsilon: float
    gated: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = False


class VisionTransformer(nn.Module):
    """Maps pixels to a grid of regions, or to the model's own pooled feature.

    Attributes:
      family: one of `FAMILIES`.
      sizes: of the model.
      pooled: whether to return one feature: the class token after the last
        normalization, or SigLIP's attention pooling.
      dtype: of the arithmetic.
    """

    family: Family
    sizes: VisionSizes
    pooled: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 `[batch, height, width, 3]` to `[batch, regions, dim]`.

        If `pooled`, the result is `[batch, dim]` float32. Pixels beyond the last whole
        patch are ignored, as by the published convolution.
        """
        sizes, family = self.sizes, self.family
        items = self._embed(image)
        if family.pre_norm:
            items = self._norm("pre_norm", items)
        create = functools.partial(
            PreNormBlock,
            sizes.heads,
            sizes.mlp_dim,
            sizes.activation,
            sizes.epsilon,
            sizes.gated,
            family.layer_scale,
            self.dtype,
        )
        for i in range(sizes.layers):
            items = create(name=f"block_{i}")(items)
        if not self.pooled:
            first = family.class_token + sizes.registers
            return self._norm("norm", items[:, first:])
        if family.class_token:
            return self._norm("norm", items[:, 0]).astype(jnp.float32)
        pool = AttentionPooling(sizes, self.dtype, name="head")
        return pool(self._norm("norm", items)).astype(jnp.float32)

    def _norm(self, name, items):
        return layer_norm(self.sizes.epsilon, self.dtype, name)(items)

    def _embed(self, image):
        """Returns class token, registers and patches, `[batch, items, dim]`."""
        sizes = self.sizes
        rows, columns = (length // sizes.patch for length in image.shape[1:3])
        image = image[:, : rows * sizes.patch, : columns * sizes.patch]
        mean, std = (
            tuple(255 * value for value in values) for values in (sizes.mean, sizes.std)
        )
        pixels = layers.normalize_pixels(image, mean, std, self.dtype)
        embed = PatchEmbedding(
            sizes.dim, sizes.patch, self.family.patch_bias, self.dtype, name="patches"
        )
        patches = layers.regions(embed(pixels))
        init = nn.initializers.normal(0.02)
        first = int(self.family.class_token)
        count = (sizes.image_size // sizes.patch) ** 2 + first
        positions = self.param("positions", init, (count, sizes.dim))
        antialias = sizes.antialias or sizes.registers > 0
        of_patches = resized_positions(
            positions[first:], rows, columns, antialias=antialias
        )
        patches += of_patches.astype(self.dtype)
        if not first:
            return patches
        extra = self.param("class_token", init, (sizes.dim,)) + positions[:1]
        if sizes.registers:
            registers = self.param("registers", init, (sizes.registers, sizes.dim))
            extra = jnp.concatenate([extra, registers])
        shape = image.shape[0], *extra.shape
        extra = jnp.broadcast_to(extra.astype(self.dtype), shape)
        return jnp.concatenate([extra, patches], axis=1)


class PatchEmbedding(nn.Module):
    """A convolution whose stride is the size of its kernel, as one matrix product.

    Attributes:
      dim: dimensions of an embedded patch.
      patch: height and width of a patch in pixels.
      use_bias: whether there is a bias.
      dtype: of the arithmetic.
    """

    dim: int
    patch: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, 3]` to `[batch, rows, columns, dim]`."""
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (self.patch, self.patch, 3, self.dim))
        kernel = kernel.astype(self.dtype).reshape(-1, self.dim)
        embedded = layers.patches(image, self.patch) @ kernel
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.dim,))
            embedded += bias.astype(self.dtype)
        return embedded


class AttentionPooling(nn.Module):
    """SigLIP's pooling: a learned query attends to the patches; then an MLP.

    Attributes:
      sizes: of the model.
      dtype: of the arithmetic.
    """

    sizes: VisionSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, items: jax.Array) -> jax.Array:
        """Maps `[batch, items, dim]` to `[batch, dim]`."""
        sizes = self.sizes
        init = nn.initializers.normal(0.02)
        probe = self.param("probe", init, (sizes.dim,)).astype(self.dtype)
        query = jnp.broadcast_to(probe, (items.shape[0], 1, sizes.dim))
        attend = SelfAttention(sizes.heads, self.dtype, name="attention")
        pooled = attend(items, queries=query)
        mlp = MLP(sizes.mlp_dim, sizes.activation, False, self.dtype, name="mlp")
        normalized = layer_norm(sizes.epsilon, self.dtype, "norm")(pooled)
        return (pooled + mlp(normalized))[:, 0]
