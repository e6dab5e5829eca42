"""Recurrent text encoders: word embeddings and a GRU with pooled states."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models import initializers
from vse_jax.models.dropout import Dropout
from vse_jax.models.gru import GRU, BidirectionalGRU
from vse_jax.models.kernels.platforms import plain_forms
from vse_jax.models.pooling import POOLINGS


class RecurrentEncoder(nn.Module):
    """Base class that embeds words; `pool_states` maps them to one vector per caption.

    Attributes:
      vocabulary_size: number of different tokens.
      word_dim: dimensions of a word's embedding.
      embed_dim: dimensions of the caption's embedding.
      dtype: of the arithmetic; the pooling is in float32.
      pooling: of the states, one of `pooling.POOLINGS`; `GRUEncoder` ignores it.
      dropout: rate of dropout of the word embeddings.
    """

    vocabulary_size: int
    word_dim: int
    embed_dim: int
    dtype: jnp.dtype
    pooling: str = "gpo"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, batch: dict) -> jax.Array:
        """Maps `tokens [batch, time]`, `token_count [batch]` to `[batch, embed]`.

        The result is float32 and not normalized.
        """
        tokens, token_count = batch["tokens"], batch["token_count"]
        image_id = batch.get("image_id") if self.dropout else None
        if plain_forms.value:  # takes captions in any order
            return self._embed_sorted(tokens, token_count, image_id)
        # The recurrence needs captions sorted by length, the longest first. Reordering
        # token ids and final embeddings is cheaper than reordering words or states.
        longest_first = jnp.argsort(-token_count)
        tokens = jnp.take(tokens, longest_first, axis=0)
        token_count = jnp.take(token_count, longest_first)
        if image_id is not None:
            image_id = jnp.take(image_id, longest_first)
        embedded = self._embed_sorted(tokens, token_count, image_id)
        return embedded[jnp.argsort(longest_first)]

    def _embed_sorted(self, tokens, token_count, image_id):
        words = nn.Embed(
            self.vocabulary_size,
            self.word_dim,
            embedding_init=initializers.uniform(0.1),
            name="words",
        )(tokens)
        words = Dropout(self.dropout, name="dropout")(words, image_id)
        return self.pool_states(words, token_count)

    def pool_states(self, words: jax.Array, token_count: jax.Array) -> jax.Array:
        """Maps `[batch, time, word]`, the longest first, to `[batch, embed]`."""
        raise NotImplementedError


class GRUEncoder(RecurrentEncoder):
    """Embeds a caption by the last state of a GRU (VSE++)."""

    @nn.compact
    def pool_states(self, words: jax.Array, token_count: jax.Array) -> jax.Array:
        """Maps `[batch, time, word]`, the longest first, to `[batch, embed]`."""
        gru = GRU(self.embed_dim, dtype=self.dtype, name="gru")
        return gru(words, token_count)[1]


class BidirectionalGRUEncoder(RecurrentEncoder):
    """Pools the states of a bidirectional GRU (VSE-infinity, RVSE++)."""

    @nn.compact
    def pool_states(self, words: jax.Array, token_count: jax.Array) -> jax.Array:
        """Maps `[batch, time, word]`, the longest first, to `[batch, embed]`."""
        gru = BidirectionalGRU(self.embed_dim, dtype=self.dtype, name="gru")
        pool = POOLINGS[self.pooling](self.dtype)
        return pool(gru(words, token_count), token_count)
