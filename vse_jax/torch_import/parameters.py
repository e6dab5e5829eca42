"""Compares the parameters of an imported file with those of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from vse_jax.errors import InputError

_LISTED = 8  # names in a message

Shapes = Mapping[str, tuple[int, ...]]


def differences(found: Shapes, expected: Shapes) -> dict[str, list[str]]:
    """Compares the parameters of a file with those of a model.

    Returns:
      Names of the missing, unexpected and mis-shaped parameters; all of these lists are
      empty if the parameters match.
    """
    return {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "mis-shaped": [
            f"{name} {found[name]} instead of {expected[name]}"
            for name in sorted(found.keys() & expected.keys())
            if found[name] != expected[name]
        ],
    }


def refuse_other_variables(
    reason: str,
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    advice: str = "",
) -> None:
    """Raises InputError if the shapes of a model's variables are not as expected.

    Args:
      reason: start of the message.
      found: variables; nested dicts of arrays.
      expected: variables or their shapes; nested dicts.
      advice: end of the message.
    """
    shapes = [
        {name: leaf.shape for name, leaf in flat.items()}
        for flat in (
            traverse_util.flatten_dict(tree, sep=".") for tree in (found, expected)
        )
    ]
    refuse(reason, differences(*shapes), advice)


def refuse_impossible_values(reason: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError if a parameter is no array of finite numbers of float32.

    A file of quantized weights has whole numbers, which mean something else.

    Args:
      reason: start of the message.
      arrays: parameters by the names of the file.
    """
    whole = [name for name, array in arrays.items() if not _are_floats(array)]
    refuse(reason, {"parameters that are no real floating-point numbers": whole})
    with np.errstate(over="ignore"):
        infinite = [
            name
            for name, array in arrays.items()
            if not np.isfinite(np.asarray(array, np.float32)).all()
        ]
    refuse(reason, {"parameters with NaN, infinite or too large numbers": infinite})


def _are_floats(array):
    return np.issubdtype(np.asarray(array).dtype, np.floating)


def refuse(
    reason: str, problems: Mapping[str, Sequence[str]], advice: str = ""
) -> None:
    """Raises InputError that lists the problems of each kind, if there are any."""
    listed = [f"{kind}: {_listing(names)}" for kind, names in problems.items() if names]
    if listed:
        raise InputError("; ".join(filter(None, [reason, *listed, advice])))


def in_our_order(array: np.ndarray) -> np.ndarray:
    """Transposes PyTorch's kernels, `[out, in, rows, columns]`, to our axes."""
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array


def in_their_order(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape in PyTorch of a kernel with our `shape`."""
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else tuple(shape)


def _listing(names):
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
