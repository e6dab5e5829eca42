"""BERT: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2019).

MiniLM has the same architecture with other sizes. There is no dropout within the
encoder, also in training.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.attention import SelfAttention
from vse_jax.models.transformers.blocks import layer_norm
from vse_jax.models.transformers.layer_stack import apply_layers
from vse_jax.models.transformers.sizes import Sizes

_INIT = nn.initializers.normal(0.02)


class Bert(nn.Module):
    """Maps tokens to states that depend on the whole caption.

    A caption is one segment, so of BERT's segment embeddings only the first exists.

    Attributes:
      sizes: sizes of the model.
      dtype: of the arithmetic; softmaxes and layer normalization are in float32.
    """

    sizes: Sizes
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, token_count: jax.Array) -> jax.Array:
        """Maps int32 `[batch, time]` and `[batch]` to `[batch, time, dim]` in `dtype`.

        `time` is at most `sizes.positions`. States from `token_count` on are
        meaningless.
        """
        states = self._embed(tokens)
        exists = jnp.arange(tokens.shape[1]) < token_count[:, None]
        create = functools.partial(Layer, self.sizes, self.dtype)
        names = [f"layer_{i}" for i in range(self.sizes.layers)]
        return apply_layers(self, create, names, states, exists)

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
    def summary(states: jax.Array, token_count: jax.Array) -> jax.Array:
        """Returns the state of the first token, `[CLS]`: `[batch, dim]`."""
        del token_count
        return states[:, 0]


class Layer(nn.Module):
    """Self-attention and two dense layers, each added to its input and normalized.

    Attributes:
      sizes: sizes of the model.
      dtype: of the arithmetic.
    """

    sizes: Sizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, states: jax.Array, exists: jax.Array) -> jax.Array:
        """Maps `[batch, time, dim]` to the same; `exists` is bool `[batch, time]`."""
        sizes = self.sizes
        norm = functools.partial(layer_norm, sizes.epsilon, self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
        attention = SelfAttention(sizes.heads, self.dtype, name="attention")
        states = norm("attention_norm")(
            states + attention(states, exists[:, None, None])
        )
        hidden = dense(sizes.mlp_dim, name="hidden")(states)
        hidden = ACTIVATIONS[sizes.activation](hidden)
        return norm("norm")(states + dense(sizes.dim, name="out")(hidden))
