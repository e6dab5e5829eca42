"""Backbones: networks that turn photos into a grid of regions or one feature."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from vse_jax.models.backbones.stem import ConvolutionalStem

BACKBONES = ("stem",)


def create_backbone(
    architecture: str,
    *,
    pooled: bool,
    dtype: jnp.dtype,
    train: bool,
    sum_over_devices: Callable,
    **kwargs,
) -> nn.Module:
    """Returns the backbone."""
    del architecture, pooled
    return ConvolutionalStem(dtype, train, sum_over_devices, **kwargs)
