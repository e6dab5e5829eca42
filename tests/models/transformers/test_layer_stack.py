import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vse_jax.models.transformers import layer_stack
from vse_jax.models.transformers.blocks import PreNormBlock

LAYERS, BATCH, ITEMS, DIM, HEADS = 3, 2, 10, 8, 4


class Tower(nn.Module):
    @nn.compact
    def __call__(self, items):
        create = functools.partial(
            PreNormBlock, HEADS, 16, "gelu", 1e-6, False, False, jnp.float32
        )
        names = [f"layer_{i}" for i in range(LAYERS)]
        return layer_stack.apply_layers(self, create, names, items)


@pytest.mark.parametrize(
    ("stored", "is_stored"),
    [(layer_stack.STORED, False), (jax.checkpoint_policies.everything_saveable, True)],
)
def test_accelerators_store_normalizations_only_if_the_policy_does(
    monkeypatch, stored, is_stored
):
    monkeypatch.setattr(layer_stack, "STORED", stored)
    items = jnp.zeros((BATCH, ITEMS, DIM))
    variables = jax.eval_shape(Tower().init, jax.random.key(0), items)
    gradient = jax.grad(lambda variables: Tower().apply(variables, items).sum())
    traced = jax.jit(gradient).trace(variables)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    deviations = f"tensor<{LAYERS}x{BATCH}x{ITEMS}x1xf32>"
    assert (deviations in text) == is_stored
    assert f"tensor<{LAYERS}x{BATCH}x{ITEMS}x16xf32>" in text  # hidden layer of the MLP
