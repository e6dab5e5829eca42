"""Applies the layers of a transformer, which have equal shapes, one after the other."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vse_jax.models.dropout import CHOICES
from vse_jax.models.kernels.equal_layers import (
    apply_equal_layers,
    as_loop,
    in_sequence,
)
from vse_jax.models.kernels.platforms import per_platform

# What the loop stores for the gradient, see `equal_layers`: the results of dense layers
# and the choices of dropout. The logits and weights of the
# attention are computed again: their size grows with the square of the number of items.
STORED = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(CHOICES),
)


def apply_layers(
    tower: nn.Module,
    create: Callable[..., nn.Module],
    names: list[str],
    items: jax.Array,
    *args,
    numbered: bool = False,
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
      numbered: whether layers also take their number, from 0, as the last argument.
      on_cpu: maps the parameters of all layers and `items` to the same in a form that
        is faster on CPUs; None for the plain form.
    """
    if tower.is_initializing():
        for name in names:
            items = create(name=name)(items, *args)
        return items
    layer = create(parent=None)

    def apply(of_layer, items):
        params, number = of_layer
        return layer.apply({"params": params}, items, *args, *number), {}

    layers = [
        (tower.variables["params"][name], (jnp.int32(i),) if numbered else ())
        for i, name in enumerate(names)
    ]
    if on_cpu is None:
        return apply_equal_layers(apply, layers, items, stored=STORED)[0]

    def faster(layers, items):
        return on_cpu([params for params, _ in layers], items)

    def one_by_one(layers, items):
        return in_sequence(apply, layers, items)[0]

    def loop(layers, items):
        return as_loop(apply, layers, items, stored=STORED)[0]

    return per_platform(faster, loop, layers, items, plain=one_by_one)
