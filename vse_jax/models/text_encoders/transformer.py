"""Text encoders of pretrained transformers with a linear layer and a pooling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.dropout import Dropout
from vse_jax.models.pooling import CLS, POOLINGS
from vse_jax.models.transformers.bert import Bert
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.models.transformers.text import ClipText, SiglipText

TOWERS = {"bert": Bert, "clip_text": ClipText, "siglip_text": SiglipText}


class TransformerEncoder(nn.Module):
    """Pools the projected states of a transformer (VSE-infinity).

    Attributes:
      tower: one of `TOWERS`.
      sizes: sizes of the tower.
      embed_dim: dimensions of the caption's embedding.
      dtype: of the arithmetic; the pooling is in float32.
      pooling: of the states, one of `pooling.POOLINGS`; or `cls`, which takes the state
        that summarizes the caption.
      dropout: share of the states' numbers that are set to 0 if there is a key
        `dropout`; the batch then has `image_id [batch]`.
      text_dropout: dropout within the tower, see `Bert`; 0 for another tower.
    """

    tower: str
    sizes: TextSizes
    embed_dim: int
    dtype: jnp.dtype
    pooling: str = "gpo"
    dropout: float = 0.0
    text_dropout: float = 0.0

    @nn.compact
    def __call__(self, batch: dict) -> jax.Array:
        """Maps `tokens [batch, time]`, `token_count [batch]` to `[batch, embed]`.

        The result is float32 and not normalized.
        """
        tokens, token_count = batch["tokens"], batch["token_count"]
        create = functools.partial(
            TOWERS[self.tower], self.sizes, self.dtype, name="transformer"
        )
        if self.text_dropout:
            tower = create(dropout=self.text_dropout)
            states = tower(tokens, token_count, batch.get("image_id"))
        else:
            tower = create()
            states = tower(tokens, token_count)
        if self.dropout:
            drop = Dropout(self.dropout, name="dropout")
            states = drop(states, batch.get("image_id"))
        projection = initializers.torch_dense(
            self.embed_dim, self.sizes.dim, dtype=self.dtype, name="projection"
        )
        if self.pooling == CLS:
            summary = tower.summary(states, tokens, token_count)
            return projection(summary).astype(jnp.float32)
        pool = POOLINGS[self.pooling](self.dtype)
        return pool(projection(states).astype(jnp.float32), token_count)
