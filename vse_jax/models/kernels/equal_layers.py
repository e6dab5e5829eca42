"""Applies equal layers one after the other, on accelerators as a loop.

XLA compiles the body of a loop once, but each layer of an unrolled sequence separately.
On CPUs the sequence stays unrolled: the loop would copy the parameters of all layers
into one array in every step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vse_jax.models.kernels.platforms import per_platform

# Maps the variables of a layer and its input to its output and its updated variables.
Layer = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


def apply_equal_layers(
    layer: Layer, variables: Sequence[Any], x: jax.Array
) -> tuple[jax.Array, list[Any]]:
    """Applies a layer several times, each time with other variables.

    Args:
      layer: its output has the shape and dtype of its input.
      variables: of each application; pytrees of equal shapes.
      x: the first input.

    Returns:
      The last output, and the updated variables of each application.
    """

    def on_cpu(variables, x):
        return in_sequence(layer, variables, x)

    def otherwise(variables, x):
        return as_loop(layer, variables, x)

    return per_platform(on_cpu, otherwise, list(variables), x, plain=on_cpu)


def in_sequence(layer: Layer, variables: Sequence[Any], x: jax.Array):
    """The plain form of `apply_equal_layers`."""
    updated = []
    for of_layer in variables:
        x, update = layer(of_layer, x)
        updated.append(update)
    return x, updated


def as_loop(layer: Layer, variables: Sequence[Any], x: jax.Array):
    """Equals `in_sequence`; a scan over the stacked variables."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    x, updated = jax.lax.scan(lambda x, of_layer: layer(of_layer, x), x, stacked)
    return x, [
        jax.tree.map(lambda leaf, i=i: leaf[i], updated) for i in range(len(variables))
    ]
