"""The text towers of CLIP and SigLIP, see `backbones.vision_transformer`.

CLIP lets a token attend to those before it, and the state of the last token summarizes
the caption. SigLIP pads each caption to one length and lets all tokens attend to all,
also to the padding. The state at the last position, which is usually padding,
summarizes the caption.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.transformers.blocks import PreNormBlock, layer_norm
from vse_jax.models.transformers.sizes import TextSizes

_INIT = nn.initializers.normal(0.02)


class TextTower(nn.Module):
    """Maps tokens to states; the base of both towers.

    Attributes:
      causal: whether a token attends only to itself and to those before it.
      sizes: sizes of the tower.
      dtype: of the arithmetic; softmaxes and statistics are in float32.
    """

    causal: ClassVar[bool]

    sizes: TextSizes
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, token_count: jax.Array) -> jax.Array:
        """Maps int32 `[batch, time]` and `[batch]` to `[batch, time, dim]` in `dtype`.

        `time` is at most `sizes.positions`. States from `token_count` on belong to no
        token. SigLIP's states have `sizes.positions` in place of `time`.
        """
        sizes = self.sizes
        tokens = self.prepared(tokens, token_count)
        time = tokens.shape[1]
        words = nn.Embed(
            sizes.vocabulary_size, sizes.dim, embedding_init=_INIT, name="words"
        )
        positions = self.param("positions", _INIT, (sizes.positions, sizes.dim))
        # `time` is symbolic in an export.
        positions = jax.lax.slice_in_dim(positions, 0, time)
        states = (words(tokens) + positions).astype(self.dtype)
        mask = None
        if self.causal:
            place = jnp.arange(time)
            mask = (place[:, None] >= place)[None, None]
        create = functools.partial(
            PreNormBlock,
            sizes.heads,
            sizes.mlp_dim,
            sizes.activation,
            sizes.epsilon,
            gated=False,
            layer_scale=False,
            dtype=self.dtype,
        )
        for i in range(sizes.layers):
            states = create(name=f"block_{i}")(states, mask)
        return layer_norm(sizes.epsilon, self.dtype, "norm")(states)

    def prepared(self, tokens: jax.Array, token_count: jax.Array) -> jax.Array:
        """Returns the tokens that the tower reads, int32 `[batch, time]`."""
        raise NotImplementedError


class ClipText(TextTower):
    """CLIP's text tower."""

    causal = True

    def prepared(self, tokens, token_count):  # noqa: D102
        del token_count  # no token attends to the padding behind it
        return tokens

    @staticmethod
    def summary(
        states: jax.Array, tokens: jax.Array, token_count: jax.Array
    ) -> jax.Array:
        """Returns the state of the first end of the caption, `[batch, dim]`.

        The last token is the end. It may also occur within a caption, as it stands for
        what CLIP's tokenizer does not know. Files of CLIP that name another end
        (`eos_token_id` 2) take the token with the largest number, which is the same.
        """
        place, last = jnp.arange(states.shape[1]), token_count[:, None] - 1
        end = jnp.where(place == last, tokens, 0).sum(1, keepdims=True)
        first = jnp.where(tokens == end, place, last).min(1, keepdims=True)
        first = jnp.minimum(first, last)  # padding may have the end's number
        return jnp.where((place == first)[..., None], states, 0).sum(1)


class SiglipText(TextTower):
    """SigLIP's text tower."""

    causal = False

    def prepared(self, tokens, token_count):  # noqa: D102
        positions = self.sizes.positions
        behind = jnp.zeros((tokens.shape[0], positions), tokens.dtype)
        tokens = jnp.concatenate([tokens, behind], axis=1)
        tokens = jax.lax.slice_in_dim(tokens, 0, positions, axis=1)
        exists = jnp.arange(positions) < token_count[:, None]
        return jnp.where(exists, tokens, self.sizes.padding)

    @staticmethod
    def summary(
        states: jax.Array, tokens: jax.Array, token_count: jax.Array
    ) -> jax.Array:
        """Returns the state at the last position, `[batch, dim]`."""
        del tokens, token_count
        return states[:, -1]
