"""The optimizer's state split over the devices: the first stage of ZeRO.

Every device has all parameters, but only its part of the optimizer's state
(Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020). The devices add up the gradients and each receives its part
(reduce-scatter), updates its part of the parameters, and the parts are gathered. This
communicates as much as the sum of whole gradients.

A parameter is split along its largest axis, which is padded with zeros to a multiple of
the number of devices. The padding stays zero: its gradient is zero, and it does not
decay.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vse_jax import parallel


def update(
    optimizer: optax.GradientTransformation,
    gradients: Any,
    opt_state: optax.OptState,
    params: Any,
    frozen: Any,
) -> tuple[Any, optax.OptState, Any]:
    """Updates the parameters; per-device code.

    Args:
      optimizer: changes each number independently of the others of its array. A norm
        over all parameters is a sum over the devices, see `clip_by_norm_of_parts`.
      gradients: tree like `params`, of this device's pairs.
      opt_state: this device's part of the state.
      params: all parameters.
      frozen: tree like `params`, True where a parameter is not trained.

    Returns:
      The new parameters, this device's part of the new state, and this device's part of
      the gradients summed over the devices.
    """

    def sum_part(gradient, is_frozen):
        if is_frozen:  # zeros need no communication
            return jnp.zeros_like(_own_part(gradient))
        return parallel.scatter_sum(*_padded(gradient, parallel.axis_size()))

    def join(part, whole, is_frozen):
        if is_frozen:
            return whole
        return _cut(parallel.gather(part, axis=_axis(whole.shape)), whole.shape)

    parts = jax.tree.map(sum_part, gradients, frozen)
    own = jax.tree.map(_own_part, params)
    updates, opt_state = optimizer.update(parts, opt_state, own)
    own = optax.apply_updates(own, updates)
    return jax.tree.map(join, own, params, frozen), opt_state, parts


def norm_of_parts(tree: Any) -> jax.Array:
    """Returns the global norm of a tree split over the devices; per-device code."""
    squares = sum(jnp.square(part).sum() for part in jax.tree.leaves(tree))
    return jnp.sqrt(parallel.sum_over_devices(squares))


def clip_by_norm_of_parts(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` of gradients split over the devices."""

    def clip(updates, state, params=None):
        del params
        norm = norm_of_parts(updates)
        scaled = jax.tree.map(
            lambda x: jnp.where(norm < max_norm, x, x / norm * max_norm), updates
        )
        return scaled, state

    return optax.GradientTransformation(optax.init_empty_state, clip)


def split_state(
    optimizer: optax.GradientTransformation, opt_state: Any, params: Any, devices: int
) -> Any:
    """Splits the optimizer's state, for `parallel.SPLIT`.

    Args:
      optimizer: its optimizer.
      opt_state: numpy arrays, or traced arrays in `jax.eval_shape`.
      params: parameters, or their shapes.
      devices: number of devices.

    Returns:
      A tree of arrays `[devices, ...]`: parts of the arrays that belong to a parameter,
      copies of others, such as the number of updates.
    """

    def split(array, belongs):
        if belongs:
            return _split(array, devices)
        return _numpy_of(array).stack([array] * devices)

    return jax.tree.map(split, opt_state, _belongs_to_parameter(optimizer, params))


def join_state(
    optimizer: optax.GradientTransformation, opt_state: Any, params: Any
) -> Any:
    """Undoes `split_state`, for any number of devices.

    Args:
      optimizer: its optimizer.
      opt_state: numpy arrays `[devices, ...]`.
      params: parameters, or their shapes.
    """

    def join(parts, whole, belongs):
        if not belongs:
            return parts[0]
        return _cut(np.concatenate(list(parts), _axis(whole.shape)), whole.shape)

    shapes = jax.eval_shape(optimizer.init, params)
    belongs = _belongs_to_parameter(optimizer, params)
    return jax.tree.map(join, opt_state, shapes, belongs)


def _belongs_to_parameter(optimizer, params):
    """Returns a tree like the optimizer's state: which arrays have a parameter's shape.

    These are the ones whose shapes change with those of the parameters.
    """

    def shapes(size):
        probe = jax.tree.map(lambda _: jax.ShapeDtypeStruct((size,), "float32"), params)
        return jax.eval_shape(optimizer.init, probe)

    return jax.tree.map(lambda x, y: x.shape != y.shape, shapes(2), shapes(3))


def _axis(shape):
    """Returns the axis along which a parameter is split."""
    return int(np.argmax(shape)) if shape else 0


def _padded(array, devices):
    """Returns an array whose split axis is a multiple of `devices`, and the axis."""
    axis = _axis(array.shape)
    array = array.reshape(array.shape or (1,))
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % devices)
    return _numpy_of(array).pad(array, widths), axis


def _split(array, devices):
    padded, axis = _padded(array, devices)
    numpy = _numpy_of(array)
    return numpy.stack(numpy.split(padded, devices, axis))


def _own_part(array):
    return parallel.own_part(*_padded(array, parallel.axis_size()))


def _cut(array, shape):
    """Removes the padding; returns an array with this shape."""
    return array[tuple(map(slice, shape or (1,)))].reshape(shape)


def _numpy_of(array):
    return np if isinstance(array, np.ndarray) else jnp
