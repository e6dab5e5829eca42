"""Dropout within BERT, of each token by the numbers of its caption and its place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vse_jax.models.dropout import drop, row_keys

EMBEDDINGS_SITE = 0


class LayerSites(NamedTuple):
    """Numbers of the places in a layer where numbers are dropped.

    Attributes:
      weights: the attention's weights.
      attended: the result of the attention.
      out: the result of the dense layers.
    """

    weights: int | jax.Array
    attended: int | jax.Array
    out: int | jax.Array

    @classmethod
    def of(cls, layer: int | jax.Array) -> "LayerSites":
        """Returns those of the layer of a number, from 0."""
        first = EMBEDDINGS_SITE + 1 + 3 * layer
        return cls(first, first + 1, first + 2)


class TokenDropout(NamedTuple):
    """Dropout that is the same for any order of captions, any padding and no padding.

    Attributes:
      rate: probability that a number is dropped.
      key: for the choices of one step.
      caption_id: int32 `[batch]`, by which the choices of captions differ.
    """

    rate: float
    key: jax.Array
    caption_id: jax.Array

    def of_rows(
        self,
        site: int | jax.Array,
        rows: jax.Array,
        caption: jax.Array,
        position: jax.Array,
    ) -> jax.Array:
        """Drops numbers of the states of some tokens.

        Args:
          site: number of the place in the model. Each has its own choices.
          rows: floating-point `[rows, ...]`.
          caption: int32 `[rows]`, row in the batch of each token's caption.
          position: int32 `[rows]`, position of each token in its caption.
        """
        key = jax.random.fold_in(self.key, site)
        caption_id = jnp.asarray(self.caption_id)[caption]
        return drop(self.rate, row_keys(key, caption_id, position), rows)

    def of_states(self, site: int | jax.Array, states: jax.Array) -> jax.Array:
        """Drops numbers of `[batch, time, ...]`, see `of_rows`."""
        batch, time = states.shape[:2]
        caption, position = jnp.divmod(jnp.arange(batch * time), time)
        rows = states.reshape(batch * time, *states.shape[2:])
        return self.of_rows(site, rows, caption, position).reshape(states.shape)

    def of_weights(self, site: int | jax.Array, weights: jax.Array) -> jax.Array:
        """Drops weights of the attention, `[batch, heads, queries, keys]`."""
        # Keys before heads, so that padding does not change the choice of a pair.
        by_query = weights.transpose(0, 2, 3, 1)
        return self.of_states(site, by_query).transpose(0, 3, 1, 2)
