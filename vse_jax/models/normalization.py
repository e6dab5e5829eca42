"""Batch normalization over all devices, without padding, and L2 normalization."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Batch normalization over all devices.

    The statistics are those of the global batch. Each device computes the count, the
    mean and the sum of squared deviations of its own vectors. One collective gathers
    them, and they are combined as in Chan et al., "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances" (1979). A sum of squares would need one
    collective too, but cancels in float32. As in PyTorch, the running variance is
    unbiased.

    Attributes:
      train: whether to normalize by the batch's statistics and update the running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
      momentum: share of the batch in the new running statistics.
      epsilon: added to the variance.
    """

    train: bool
    gather_over_devices: Callable
    momentum: float = 0.1
    epsilon: float = 1e-5

    def __call__(self, vectors: jax.Array) -> jax.Array:
        """Normalizes `[..., dim]` in float32."""
        vectors = vectors.astype(jnp.float32)
        factor, offset = self.factor_and_offset(vectors.shape[-1], vectors)
        return vectors * factor + offset

    @nn.compact
    def factor_and_offset(
        self,
        dim: int,
        vectors: jax.Array | None = None,
        exists: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the factor and the offset that normalize vectors.

        Args:
          dim: dimensions of the vectors.
          vectors: float32 `[..., dim]`; needed only if `train`.
          exists: bool `[...]`, False for padding; None if there is none.

        Returns:
          Two arrays `[dim]`, float32.
        """
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,))
        running_variance = self.variable("batch_stats", "variance", jnp.ones, (dim,))
        scale = self.param("scale", nn.initializers.ones, (dim,))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        if self.train:
            mean, variance, count = self._batch_statistics(vectors, exists)
            if not self.is_initializing():
                unbiased = variance * count / jnp.maximum(1, count - 1)
                self._update(running_mean, mean)
                self._update(running_variance, unbiased)
        else:
            mean, variance = running_mean.value, running_variance.value
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        return factor, bias - mean * factor

    def _batch_statistics(self, vectors, exists):
        count = _count(vectors, exists)
        mean = _sum(vectors, exists) / jnp.maximum(1, count)
        squares = _sum(jnp.square(vectors - mean), exists)
        own = jnp.stack([mean, squares, jnp.broadcast_to(count, mean.shape)])
        gathered = self.gather_over_devices(own[None])
        if len(gathered) == 1:
            return mean, squares / count, count
        means, squares, counts = jnp.unstack(gathered, axis=1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        squares = (squares + counts * jnp.square(means - mean)).sum(0)
        return mean, squares / count, count

    def _update(self, running, batch):
        running.value += self.momentum * (batch - running.value)


class MaskedBatchNorm(BatchNorm):
    """Batch normalization with statistics that exclude padding.

    The number of vectors without padding may differ between devices. Flax's BatchNorm
    averages the means of the devices, which is wrong for such batches.
    """

    def __call__(self, vectors: jax.Array, exists: jax.Array) -> jax.Array:
        """Normalizes `[..., dim]` in float32; bool `exists [...]` excludes padding."""
        vectors = vectors.astype(jnp.float32)
        factor, offset = self.factor_and_offset(vectors.shape[-1], vectors, exists)
        return vectors * factor + offset


def _sum(vectors, exists):
    if exists is not None:
        vectors = jnp.where(exists[..., None], vectors, 0)
    return vectors.sum(tuple(range(vectors.ndim - 1)))


def _count(vectors, exists):
    if exists is not None:
        return exists.sum(dtype=jnp.float32)
    return jnp.float32(vectors.size // vectors.shape[-1])


def l2_normalize(vectors: jax.Array) -> jax.Array:
    """Scales `[..., dim]` to unit length in float32; zero vectors stay zero."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-16))
