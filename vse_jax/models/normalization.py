"""Batch normalization over all devices, without padding, and L2 normalization."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Batch normalization over all devices.

    The statistics are those of the global batch: sums and counts are summed over all
    devices before the division. As in PyTorch, the running variance is unbiased.

    Attributes:
      train: whether to normalize by the batch's statistics and update the running ones.
      sum_over_devices: sums a pytree over all devices.
      momentum: share of the batch in the new running statistics.
      epsilon: added to the variance.
    """

    train: bool
    sum_over_devices: Callable
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
        total, count = self.sum_over_devices(
            (_sum(vectors, exists), _count(vectors, exists))
        )
        mean = total / count
        squares = _sum(jnp.square(vectors - mean), exists)
        return mean, self.sum_over_devices(squares) / count, count

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
