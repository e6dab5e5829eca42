"""Applies the layers of a transformer, which have equal shapes, one after the other."""

from collections.abc import Callable

import flax.linen as nn
import jax

from vse_jax.models.kernels.equal_layers import (
    apply_equal_layers,
    as_loop,
    in_sequence,
)
from vse_jax.models.kernels.platforms import per_platform


def apply_layers(
    tower: nn.Module,
    create: Callable[..., nn.Module],
    names: list[str],
    items: jax.Array,
    *args,
    on_cpu: Callable[[list, jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Returns the output of the last layer; called within a compact method.

    Args:
      tower: module whose submodules the layers are.
      create: returns a layer, given `name` or `parent`. The layer maps `items` and
        `args` to an array like `items`, without updating any variable.
      names: names of the layers.
      items: input of the first layer.
      *args: further arguments of all layers.
      on_cpu: maps the parameters of all layers and `items` to the same in a form that
        is faster on CPUs; None for the plain form.
    """
    if tower.is_initializing():
        for name in names:
            items = create(name=name)(items, *args)
        return items
    layer = create(parent=None)

    def apply(variables, items):
        return layer.apply({"params": variables}, items, *args), {}

    params = [tower.variables["params"][name] for name in names]
    if on_cpu is None:
        return apply_equal_layers(apply, params, items)[0]

    def one_by_one(params, items):
        return in_sequence(apply, params, items)[0]

    def loop(params, items):
        return as_loop(apply, params, items)[0]

    return per_platform(on_cpu, loop, params, items, plain=one_by_one)
