"""Multi-head self-attention of BERT, CLIP, SigLIP and DINOv2."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class SelfAttention(nn.Module):
    """Scaled dot-product attention with biased projections (Vaswani et al., eq. 1).

    Attributes:
      heads: number of heads; divides the dimensions of the items.
      dtype: of the arithmetic; the softmax is in float32.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        items: jax.Array,
        mask: jax.Array | None = None,
        *,
        queries: jax.Array | None = None,
        drop: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Lets each item attend to the others.

        Args:
          items: `[batch, items, dim]`.
          mask: bool, broadcastable to `[batch, heads, items, items]`; False where an
            item (third axis) does not attend to another (last axis). None attends to
            all.
          queries: `[batch, queries, dim]` that attend to the items instead of the items
            themselves.
          drop: dropout of the weights, see `attend`.

        Returns:
          `[batch, items, dim]`, or `[batch, queries, dim]`, in `dtype`.
        """
        queries = items if queries is None else queries
        dim = items.shape[-1]

        def project(name, x):
            projected = nn.Dense(dim, dtype=self.dtype, name=name)(x)
            return projected.reshape(*x.shape[:2], self.heads, dim // self.heads)

        attended = attend(
            project("query", queries),
            project("key", items),
            project("value", items),
            mask,
            drop,
        )
        out = nn.Dense(dim, dtype=self.dtype, name="out")
        return out(attended.reshape(queries.shape))


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array | None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Computes scaled dot-product attention, of each head by itself.

    Args:
      queries: `[batch, queries, heads, dim]`.
      keys: `[batch, keys, heads, dim]`.
      values: `[batch, keys, heads, dim]`.
      mask: bool, broadcastable to `[batch, heads, queries, keys]`; see `SelfAttention`.
      drop: maps the weights `[batch, heads, queries, keys]`, float32, to those that are
        used. None for no dropout.

    Returns:
      `[batch, queries, heads, dim]`.
    """
    if drop is None:
        return jax.nn.dot_product_attention(queries, keys, values, mask=mask)
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32
    )
    logits /= math.sqrt(queries.shape[-1])
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = drop(jax.nn.softmax(logits)).astype(values.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, values)
