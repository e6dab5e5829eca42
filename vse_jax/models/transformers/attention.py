"""Multi-head self-attention of BERT, CLIP, SigLIP and DINOv2."""

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
    ) -> jax.Array:
        """Lets each item attend to the others.

        Args:
          items: `[batch, items, dim]`.
          mask: bool, broadcastable to `[batch, heads, items, items]`; False where an
            item (third axis) does not attend to another (last axis). None attends to
            all.
          queries: `[batch, queries, dim]` that attend to the items instead of the items
            themselves.

        Returns:
          `[batch, items, dim]`, or `[batch, queries, dim]`, in `dtype`.
        """
        queries = items if queries is None else queries
        dim = items.shape[-1]

        def project(name, x):
            projected = nn.Dense(dim, dtype=self.dtype, name=name)(x)
            return projected.reshape(*x.shape[:2], self.heads, dim // self.heads)

        attended = jax.nn.dot_product_attention(
            project("query", queries),
            project("key", items),
            project("value", items),
            mask=mask,
        )
        out = nn.Dense(dim, dtype=self.dtype, name="out")
        return out(attended.reshape(queries.shape))
