"""Applies the layers of a transformer, which have equal shapes, one after the other."""

from collections.abc import Callable

import flax.linen as nn
import jax

from vse_jax.models.kernels.equal_layers import apply_equal_layers


def apply_layers(
    tower: nn.Module,
    create: Callable[..., nn.Module],
    names: list[str],
    items: jax.Array,
    *args,
) -> jax.Array:
    """Returns the output of the last layer; called within a compact method.

    Args:
      tower: module whose submodules the layers are.
      create: returns a layer, given `name` or `parent`. The layer maps `items` and
        `args` to an array like `items`, without updating any variable.
      names: names of the layers.
      items: input of the first layer.
      *args: further arguments of all layers.
    """
    if tower.is_initializing():
        for name in names:
            items = create(name=name)(items, *args)
        return items
    layer = create(parent=None)

    def apply(variables, items):
        return layer.apply({"params": variables}, items, *args), {}

    params = tower.variables["params"]
    return apply_equal_layers(apply, [params[name] for name in names], items)[0]
