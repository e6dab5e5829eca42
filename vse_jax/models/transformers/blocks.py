"""Blocks of transformers that normalize before each part: CLIP, SigLIP and DINOv2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.attention import SelfAttention


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Returns a layer normalization; its statistics are in float32."""
    # The fast variance, E[x^2] - E[x]^2, cancels where the mean is large.
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class MLP(nn.Module):
    """Two dense layers with an activation, or with a gate (SwiGLU).

    Attributes:
      hidden_dim: dimensions between the layers.
      activation: one of `activations.ACTIVATIONS`; a gate ignores it.
      gated: whether the hidden layer is `silu(a) * b` (Shazeer, "GLU Variants Improve
        Transformer", 2020), as in DINOv2-giant.
      dtype: of the arithmetic.
    """

    hidden_dim: int
    activation: str
    gated: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., dim]` to `[..., dim]`."""
        width = 2 * self.hidden_dim if self.gated else self.hidden_dim
        hidden = nn.Dense(width, dtype=self.dtype, name="hidden")(x)
        if self.gated:
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = nn.silu(gate) * value
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(hidden)


class PreNormBlock(nn.Module):
    """Self-attention and an MLP, each on normalized items and added to its input.

    Attributes:
      heads: of the attention.
      mlp_dim: dimensions of the MLP's hidden layer.
      activation: one of `activations.ACTIVATIONS`.
      epsilon: of the normalizations.
      gated: whether the MLP has a gate.
      layer_scale: whether the result of each part is multiplied by learned factors
        (Touvron et al., "Going Deeper with Image Transformers", 2021), as in DINOv2.
      dtype: of the arithmetic.
    """

    heads: int
    mlp_dim: int
    activation: str
    epsilon: float
    gated: bool
    layer_scale: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, items: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `[batch, items, dim]`; see `SelfAttention` for the mask."""
        attention = SelfAttention(self.heads, self.dtype, name="attention")
        mlp = MLP(self.mlp_dim, self.activation, self.gated, self.dtype, name="mlp")
        normalized = layer_norm(self.epsilon, self.dtype, "norm_1")(items)
        items = items + self._scaled("scale_1", attention(normalized, mask))
        normalized = layer_norm(self.epsilon, self.dtype, "norm_2")(items)
        return items + self._scaled("scale_2", mlp(normalized))

    def _scaled(self, name, x):
        if not self.layer_scale:
            return x
        return x * self.param(name, nn.initializers.ones, x.shape[-1:]).astype(x.dtype)
