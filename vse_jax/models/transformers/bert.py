"""BERT: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2019).

MiniLM has the same architecture with other sizes.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.kernels.packed_bert import SMALLEST_DIM, packed_layers
from vse_jax.models.kernels.platforms import per_platform
from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.attention import SelfAttention
from vse_jax.models.transformers.blocks import layer_norm
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.models.transformers.token_dropout import (
    EMBEDDINGS_SITE,
    LayerDropout,
    TokenDropout,
)

_INIT = nn.initializers.normal(0.02)


class Bert(nn.Module):
    """Maps tokens to states that depend on the whole caption.

    A caption is one segment, so of BERT's segment embeddings only the first exists.

    Attributes:
      sizes: sizes of the model.
      dtype: of the arithmetic; softmaxes and layer normalization are in float32.
      dropout: share of the embeddings' numbers, of the attention's weights and of the
        numbers of both results of each layer that are set to 0 if there is a key
        `dropout`. BERT was trained with 0.1.
    """

    sizes: TextSizes
    dtype: jnp.dtype = jnp.float32
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        token_count: jax.Array,
        caption_id: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the states of the tokens.

        Args:
          tokens: int32 `[batch, time]`; `time` is at most `sizes.positions`.
          token_count: int32 `[batch]`.
          caption_id: int32 `[batch]`, by which the dropout of captions differs; None if
            nothing is dropped.

        Returns:
          `[batch, time, dim]` in `dtype`. States from `token_count` on are meaningless.
        """
        states = self._embed(tokens)
        dropout = None
        if self.dropout and self.has_rng("dropout"):
            dropout = TokenDropout(self.dropout, self.make_rng("dropout"), caption_id)
            states = dropout.of_states(EMBEDDINGS_SITE, states)
        exists = jnp.arange(tokens.shape[1]) < token_count[:, None]
        if self.sizes.dim >= SMALLEST_DIM and not self.is_initializing():
            return self._packed_on_cpus(states, exists, token_count, dropout)
        for i in range(self.sizes.layers):
            layer = Layer(self.sizes, self.dtype, name=_name(i))
            states = layer(states, exists, dropout, i)
        return states

    def _packed_on_cpus(self, states, exists, token_count, dropout):
        """Applies the layers, in the packed form on CPUs."""
        layer = Layer(self.sizes, self.dtype, parent=None)

        def packed(layers, states):
            return packed_layers(
                self.sizes, self.dtype, layers, states, token_count, dropout
            )

        def plain(layers, states):
            for i, params in enumerate(layers):
                states = layer.apply({"params": params}, states, exists, dropout, i)
            return states

        params = self.variables["params"]
        layers = [params[_name(i)] for i in range(self.sizes.layers)]
        return per_platform(packed, plain, layers, states, plain=plain)

    def _embed(self, tokens):
        sizes = self.sizes
        dim = sizes.dim
        words = nn.Embed(sizes.vocabulary_size, dim, embedding_init=_INIT, name="words")
        positions = self.param("positions", _INIT, (sizes.positions, dim))
        segment = self.param("segment", _INIT, (dim,))
        # The length may be symbolic, which a slice by indexing does not take.
        positions = jax.lax.slice_in_dim(positions, 0, tokens.shape[1])
        embedded = words(tokens) + positions + segment
        return layer_norm(sizes.epsilon, self.dtype, "norm")(embedded)

    @staticmethod
    def summary(
        states: jax.Array, tokens: jax.Array, token_count: jax.Array
    ) -> jax.Array:
        """Returns the state of the first token, `[CLS]`: `[batch, dim]`."""
        del tokens, token_count
        return states[:, 0]


def _name(layer):
    return f"layer_{layer}"


class Layer(nn.Module):
    """Self-attention and two dense layers, each added to its input and normalized.

    Attributes:
      sizes: sizes of the model.
      dtype: of the arithmetic.
    """

    sizes: TextSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        states: jax.Array,
        exists: jax.Array,
        dropout: TokenDropout | None = None,
        number: int = 0,
    ) -> jax.Array:
        """Maps states to states.

        Args:
          states: `[batch, time, dim]`.
          exists: bool `[batch, time]`, False for padding.
          dropout: None for no dropout.
          number: of the layer, from 0.
        """
        sizes, drop = self.sizes, LayerDropout(dropout, number)
        norm = functools.partial(layer_norm, sizes.epsilon, self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
        attention = SelfAttention(sizes.heads, self.dtype, name="attention")
        attended = attention(states, exists[:, None, None], drop=drop.weights)
        states = norm("attention_norm")(states + drop.attended(attended))
        hidden = dense(sizes.mlp_dim, name="hidden")(states)
        hidden = ACTIVATIONS[sizes.activation](hidden)
        out = dense(sizes.dim, name="out")(hidden)
        return norm("norm")(states + drop.out(out))
