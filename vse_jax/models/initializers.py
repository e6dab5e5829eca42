"""Initializers of the published models."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def uniform(bound: float) -> nn.initializers.Initializer:
    """Returns an initializer that draws uniformly from `[-bound, bound)`."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_dense(
    features: int, inputs: int, *, use_bias: bool = True, **kwargs
) -> nn.Dense:
    """Returns a dense layer with the initial values of `torch.nn.Linear`."""
    init = uniform(inputs**-0.5)
    return nn.Dense(
        features, use_bias=use_bias, kernel_init=init, bias_init=init, **kwargs
    )


def xavier_dense(features: int, **kwargs) -> nn.Dense:
    """Returns a dense layer with a Xavier-uniform kernel and a zero bias (VSE++)."""
    return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), **kwargs)
