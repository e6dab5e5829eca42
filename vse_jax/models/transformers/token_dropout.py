"""Dropout within BERT, of each token by the numbers of its caption and its place."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vse_jax.models.dropout import drop, row_keys

EMBEDDINGS_SITE = 0


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


class LayerDropout(NamedTuple):
    """The dropout of a layer in its three places, if any.

    Attributes:
      dropout: None for no dropout.
      layer: number of the layer, from 0.
      tokens: caption and position of each row, see `TokenDropout.of_rows`, if the
        states are `[rows, dim]`; None if they are `[batch, time, dim]`.
    """

    dropout: TokenDropout | None
    layer: int | jax.Array
    tokens: tuple[jax.Array, jax.Array] | None = None

    @property
    def weights(self) -> Callable[[jax.Array], jax.Array] | None:
        """Drops the attention's weights, `[batch, heads, queries, keys]`."""
        if self.dropout is None:
            return None
        return functools.partial(self.dropout.of_weights, self._site(0))

    def attended(self, states: jax.Array) -> jax.Array:
        """Drops numbers of the result of the attention."""
        return self._of_states(1, states)

    def out(self, states: jax.Array) -> jax.Array:
        """Drops numbers of the result of the dense layers."""
        return self._of_states(2, states)

    def _site(self, place):
        return EMBEDDINGS_SITE + 1 + 3 * self.layer + place

    def _of_states(self, place, states):
        if self.dropout is None:
            return states
        if self.tokens is None:
            return self.dropout.of_states(self._site(place), states)
        return self.dropout.of_rows(self._site(place), states, *self.tokens)
