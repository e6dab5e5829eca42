"""Batch normalization over what exists, on all devices; L2 normalization."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class MaskedBatchNorm(nn.Module):
    """Batch normalization whose statistics leave padding out.

    The statistics are those of the global batch: sums are taken over all devices before
    they are divided by the number of vectors that exist, which may differ between
    devices. (Flax's own averages the devices' means, which is wrong for such batches.)
    As in PyTorch, the running variance is the unbiased one.

    Attributes:
      train: normalize by the batch and update the running statistics.
      sum_over_devices: adds a pytree up over all devices.
      momentum: share of the batch in the new running statistics.
      epsilon: added to the variance.
    """

    train: bool
    sum_over_devices: Callable
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, vectors: jax.Array, exists: jax.Array) -> jax.Array:
        """Normalizes `[..., dim]`, where `exists` is bool `[...]`; float32."""
        dim = vectors.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, dim)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, dim)
        scale = self.param("scale", nn.initializers.ones, dim)
        bias = self.param("bias", nn.initializers.zeros, dim)

        vectors = vectors.astype(jnp.float32)
        if self.train:
            mean, variance, count = self._batch_statistics(vectors, exists)
            if not self.is_initializing():
                unbiased = variance * count / jnp.maximum(1, count - 1)
                self._update(running_mean, mean)
                self._update(running_variance, unbiased)
        else:
            mean, variance = running_mean.value, running_variance.value
        inverse = scale * jax.lax.rsqrt(variance + self.epsilon)
        return vectors * inverse + (bias - mean * inverse)

    def _batch_statistics(self, vectors, exists):
        axes = tuple(range(vectors.ndim - 1))
        exists = exists[..., None]
        total = jnp.where(exists, vectors, 0).sum(axes)
        count = exists.sum(dtype=jnp.float32)
        total, count = self.sum_over_devices((total, count))
        mean = total / count
        squares = jnp.where(exists, jnp.square(vectors - mean), 0).sum(axes)
        return mean, self.sum_over_devices(squares) / count, count

    def _update(self, running, batch):
        running.value += self.momentum * (batch - running.value)


def l2_normalize(vectors: jax.Array) -> jax.Array:
    """Scales `[..., dim]` to unit length in float32; zero stays zero."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-16))
