"""Converts transformer towers of Hugging Face's files to our variables."""

import re
from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util

from vse_jax.torch_import import parameters

Path = tuple[str, ...]

_THREE = re.compile(r"(.*\.in_proj_(?:weight|bias))")
# Arrays with leading axes of length 1, and how many of them.
_UNIT_AXES = {
    "embeddings.cls_token": 2,
    "embeddings.position_embeddings": 1,
    "embeddings.register_tokens": 1,
    "head.probe": 2,
}


def convert(
    found: Mapping[str, np.ndarray],
    names: Mapping[Path, str],
    shapes: Mapping[Path, tuple[int, ...]],
    reason: str,
) -> dict:
    """Converts a tower's parameters.

    Args:
      found: the parameters of the tower, by Hugging Face's names.
      names: Hugging Face's names by the paths of our parameters.
      shapes: shapes by the same paths.
      reason: start of an error's message: the file, and what it is not.

    Returns:
      `params` of the tower, nested dicts of float32 numpy arrays.

    Raises:
      InputError: if a parameter is missing, unexpected, mis-shaped or not finite; lists
        them.
    """
    expected = {
        name: parameters.in_their_order(shapes[path])
        if path[-1] == "kernel"
        else tuple(shapes[path])
        for path, name in names.items()
    }
    shapes_found = {name: np.shape(array) for name, array in found.items()}
    parameters.refuse(reason, parameters.differences(shapes_found, expected))
    parameters.refuse_impossible_values(reason, found)
    return traverse_util.unflatten_dict(
        {path: _converted(path, found[name]) for path, name in names.items()}
    )


def _converted(path, array):
    array = parameters.in_our_order(array) if path[-1] == "kernel" else array
    return np.ascontiguousarray(array, np.float32)


def prepared(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits arrays that we keep in parts, and drops axes of length 1."""
    prepared = {}
    for name, array in arrays.items():
        if _THREE.fullmatch(name) and array.shape and array.shape[0] % 3 == 0:
            for number, part in enumerate(np.split(array, 3)):
                prepared[f"{name}[{number}]"] = part
        else:
            prepared[name] = _without_axes(array, _UNIT_AXES.get(name, 0))
    return prepared


def _without_axes(array, count):
    """Drops leading axes of length 1; other shapes are left to be refused."""
    if array.ndim > count and array.shape[:count] == (1,) * count:
        return array.reshape(array.shape[count:])
    return array


def shapes_of(module, *args) -> dict[Path, tuple[int, ...]]:
    """Returns the shapes of a module's parameters by path, for inputs `args`."""
    params = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    flat = traverse_util.flatten_dict(params)
    return {path: leaf.shape for path, leaf in flat.items()}
