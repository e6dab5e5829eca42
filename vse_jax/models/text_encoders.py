"""Text encoders: from tokens to embeddings of captions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers, recurrent
from vse_jax.models.pooling import GeneralizedPooling

ENCODERS = ("bigru_gpo", "gru")


class TextEncoder(nn.Module):
    """Word embeddings, a recurrent network, and one vector of its states.

    Attributes:
      kind: `bigru_gpo`, both directions and generalized pooling (VSE-infinity, RVSE++),
        or `gru`, the last state of one direction (VSE++).
      vocabulary_size: number of different tokens.
      word_dim: dimensions of a word's embedding.
      embed_dim: dimensions of the caption's embedding.
      dtype: of the arithmetic; the pooling is in float32.
    """

    kind: str
    vocabulary_size: int
    word_dim: int
    embed_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, batch: dict) -> jax.Array:
        """Maps `tokens [batch, time]`, `token_count [batch]` to `[batch, embed]`.

        The result is float32 and not normalized.
        """
        # The recurrence wants the longest caption first. Reordering token ids and
        # embeddings of captions is cheap, unlike anything in between.
        longest_first = jnp.argsort(-batch["token_count"])
        tokens = jnp.take(batch["tokens"], longest_first, axis=0)
        token_count = jnp.take(batch["token_count"], longest_first)

        words = nn.Embed(
            self.vocabulary_size,
            self.word_dim,
            embedding_init=initializers.uniform(0.1),
            name="words",
        )(tokens)
        if self.kind == "gru":
            _, embedded = recurrent.GRU(self.embed_dim, dtype=self.dtype, name="gru")(
                words, token_count
            )
        else:
            states = recurrent.BidirectionalGRU(
                self.embed_dim, dtype=self.dtype, name="gru"
            )(words, token_count)
            embedded = GeneralizedPooling(name="pooling")(states, token_count)
        return embedded[jnp.argsort(longest_first)]
