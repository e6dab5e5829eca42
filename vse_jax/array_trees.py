"""Nested dicts of arrays, as checkpoints and exports store them."""

import zlib
from typing import Any

import flax.serialization
import jax
import numpy as np

from vse_jax.errors import InputError


def digest(tree: Any) -> str:
    """Returns a checksum of nested dicts of arrays: names, dtypes, shapes, values."""
    checksum = 0
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    for path, leaf in leaves:
        array = np.ascontiguousarray(leaf)
        header = f"{jax.tree_util.keystr(path)} {array.dtype} {np.shape(leaf)}"
        checksum = zlib.crc32(header.encode(), checksum)
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8), checksum)
    return f"{checksum:08x}"


def in_form_of(template: Any, saved: dict) -> Any:
    """Returns saved arrays in the structure of `template`.

    Args:
      template: any tree of arrays or shapes.
      saved: nested dicts of arrays, from which `without_empty` dropped empty dicts.

    Raises:
      InputError: if the shapes differ from those of the template.
    """
    expected = flax.serialization.to_state_dict(template)
    filled = _with_empty(expected, saved)
    if _shapes(expected) != _shapes(filled):
        raise InputError(
            "the checkpoint's arrays do not have the shapes of this configuration's "
            "model; use the configuration that it was trained with, or choose another "
            "--workdir"
        )
    return flax.serialization.from_state_dict(template, filled)


def _shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def without_empty(tree: Any) -> Any:
    """Drops empty dicts, such as the states of stateless transformations."""
    if not isinstance(tree, dict):
        return tree
    pruned = {key: without_empty(value) for key, value in tree.items()}
    return {key: value for key, value in pruned.items() if not _is_empty(value)}


def _with_empty(expected, saved):
    """Adds the empty dicts that `without_empty` dropped."""
    if not isinstance(expected, dict):
        return saved
    return {
        key: _with_empty(value, saved.get(key, {})) for key, value in expected.items()
    }


def _is_empty(value):
    return isinstance(value, dict) and not value
