"""Pooling of a set of vectors: GPO, ESA, mean, max and the class token.

GPO is the generalized pooling operator of Chen et al., "Learning the Best Pooling
Strategy for Visual Semantic Embedding" (2021). It sorts the values of each dimension in
descending order and sums them with weights that a small recurrent network computes for
the ranks. Mean and max pooling are special cases.

ESA is the element-wise attention of Zhu et al., "ESA: External Space Attention
Aggregation for Image-Text Retrieval" (2023). It weights the values of each dimension by
a softmax over the vectors. The logits are one linear layer of the vectors. Mean pooling
is the special case of equal logits. The published layer has a bias, which is missing
here: it is equal for all vectors, so the softmax cancels it.
"""

import math

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from vse_jax.models import initializers
from vse_jax.models.gru import BidirectionalGRU
from vse_jax.models.kernels.platforms import plain_forms
from vse_jax.models.kernels.prefix_gru import prefix_states
from vse_jax.models.kernels.ranked_sum import ranked_sum

_HIGHEST = jax.lax.Precision.HIGHEST
MASKED_SCORE = -10_000.0
SCORE_TEMPERATURE = 0.1
LONGEST = 256  # vectors of an exported program, if their number is free


class GeneralizedPooling(nn.Module):
    """The generalized pooling operator (GPO).

    Attributes:
      position_dim: dimensions of the sinusoidal encoding of a rank.
      hidden_dim: dimensions of the recurrent network's state.
    """

    position_dim: int = 32
    hidden_dim: int = 32

    @nn.compact
    def __call__(self, vectors: jax.Array, count: jax.Array) -> jax.Array:
        """Pools the first `count` vectors of each row.

        Args:
          vectors: `[batch, length, dim]` float32.
          count: `[batch]` int32, at least 1 and at most `length`.

        Returns:
          `[batch, dim]` float32.
        """
        length = vectors.shape[1]
        if plain_forms.value:
            weights = self._constant_rank_weights(length)
        else:
            weights = self.rank_weights(length)
        return ranked_sum(vectors, weights[count - 1], count)

    @nn.compact
    def rank_weights(self, length: int) -> jax.Array:
        """Returns `[length, length]`; row `i` has the weights of `i + 1` vectors.

        The weights depend only on the number of vectors, so they are computed once for
        each possible number instead of once for each sample.
        """
        gru = BidirectionalGRU(self.hidden_dim, name="gru")
        positions = sinusoidal_positions(length, self.position_dim)
        states = prefix_states(positions, gru.weights(self.position_dim))
        score = initializers.torch_dense(
            1, self.hidden_dim, use_bias=False, name="score"
        )
        scores = score(states)[..., 0]
        exists = jnp.arange(length) < jnp.arange(length, 0, -1)[:, None]
        scores = jnp.where(exists, scores, MASKED_SCORE)
        return jax.nn.softmax(scores / SCORE_TEMPERATURE, axis=-1)[::-1]

    def _constant_rank_weights(self, length):
        """Like `rank_weights`, computed while tracing if the parameters are known.

        The length may be symbolic. There are then weights of up to `LONGEST` vectors.
        Those of `n` vectors are zero from the rank `n` on, so they can be cut.
        """
        is_free = jax.export.is_symbolic_dim(length)
        with jax.ensure_compile_time_eval():
            weights = self.rank_weights(LONGEST if is_free else length)
        return jax.lax.slice_in_dim(weights, 0, length, axis=1)


class ElementwiseAttention(nn.Module):
    """ESA: for each dimension, `softmax(V W)` over the vectors, times `V`, summed.

    Attributes:
      dtype: of the product with `W`; everything else is in float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, vectors: jax.Array, count: jax.Array) -> jax.Array:
        """Pools the first `count` vectors of each row; see `GeneralizedPooling`."""
        length, dim = vectors.shape[1:]
        dense = initializers.xavier_dense(
            dim, use_bias=False, dtype=self.dtype, name="logits"
        )
        logits = dense(vectors).astype(jnp.float32)
        exists = jnp.arange(length) < count[:, None]
        logits = jnp.where(exists[..., None], logits, -jnp.inf)
        return (jax.nn.softmax(logits, axis=1) * vectors).sum(1)


def mean_pooling(vectors: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the mean `[batch, dim]` of the first `count` vectors of each row."""
    exists = jnp.arange(vectors.shape[1]) < count[:, None]
    return jnp.where(exists[..., None], vectors, 0).sum(1) / count[:, None]


def max_pooling(vectors: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the maximum `[batch, dim]` of the first `count` vectors of each row."""
    exists = jnp.arange(vectors.shape[1]) < count[:, None]
    return jnp.where(exists[..., None], vectors, -jnp.inf).max(1)


def class_token(vectors: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the first vector `[batch, dim]` of each row: that of a class token."""
    del count
    return vectors[:, 0]


CLS = "cls"  # takes the class token, which summarizes a photo or a caption
# Poolings of regions and words, by the dtype of the encoder's arithmetic: modules or
# functions of vectors `[batch, length, dim]` float32 and counts `[batch]` int32 that
# return `[batch, dim]` float32.
POOLINGS = {
    "gpo": lambda dtype: GeneralizedPooling(name="pooling"),
    "esa": lambda dtype: ElementwiseAttention(dtype, name="pooling"),
    "mean": lambda dtype: mean_pooling,
    "max": lambda dtype: max_pooling,
    CLS: lambda dtype: class_token,
}


def pool_grid(regions: jax.Array, size: int) -> jax.Array:
    """Averages a square grid of regions to a smaller grid.

    If `size` does not divide the number of rows, neighboring cells may share a row,
    as in PyTorch's adaptive average pooling.

    Args:
      regions: `[batch, rows * rows, dim]`, row by row.
      size: number of rows and columns of the new grid.

    Returns:
      `[batch, size * size, dim]`.
    """
    batch, count, dim = regions.shape
    rows = math.isqrt(count)
    grid = regions.reshape(batch, rows, rows, dim)
    weights = adaptive_average_weights(rows, size)
    pooled = jnp.einsum("yr,xc,brcd->byxd", weights, weights, grid, precision=_HIGHEST)
    return pooled.reshape(batch, size * size, dim)


def adaptive_average_weights(length: int, size: int) -> np.ndarray:
    """Returns the weights of PyTorch's adaptive average pooling of one axis.

    Args:
      length: number of inputs.
      size: number of averages.

    Returns:
      `[size, length]` float32, the weight of each input in each average.
    """
    weights = np.zeros((size, length), np.float32)
    for i in range(size):
        start, end = i * length // size, -(-(i + 1) * length // size)
        weights[i, start:end] = 1 / (end - start)
    return weights


def sinusoidal_positions(length: int, dim: int) -> np.ndarray:
    """Returns the Transformer's encoding of positions, `[length, dim]` float32."""
    position = np.arange(length)[:, None]
    frequency = np.exp(np.arange(0, dim, 2) * -(np.log(10_000.0) / dim))
    encoding = np.empty((length, dim), np.float32)
    encoding[:, 0::2] = np.sin(position * frequency)
    encoding[:, 1::2] = np.cos(position * frequency)
    return encoding
