"""Initial values as the published models draw them."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def uniform(bound: float) -> nn.initializers.Initializer:
    """Draws from `[-bound, bound)`."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_dense(
    features: int, inputs: int, *, use_bias: bool = True, **kwargs
) -> nn.Dense:
    """A dense layer from `inputs` to `features` with the defaults of PyTorch's."""
    init = uniform(inputs**-0.5)
    return nn.Dense(
        features, use_bias=use_bias, kernel_init=init, bias_init=init, **kwargs
    )


def xavier_dense(features: int, **kwargs) -> nn.Dense:
    """A dense layer with a Xavier-uniform kernel and no bias at the start (VSE++)."""
    return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), **kwargs)
