"""Reads single options of the training in a published checkpoint."""

import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any

from vse_jax.errors import InputError
from vse_jax.excerpts import short

_ADVICE = "correct the option in the file, or choose another checkpoint"


def number(
    options: Mapping[str, Any], name: str, default: float, path: str, *, least: float
) -> float:
    """Returns an option that is a finite number.

    Args:
      options: of the training.
      name: of the option.
      default: if the file lacks the option.
      path: of the file, for messages.
      least: value that is the smallest one.

    Raises:
      InputError: if the option is anything else.
    """
    value = options.get(name, default)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not least <= value < math.inf:
        expected = f"a finite number, at least {least:g}"
        raise _invalid(name, value, expected, path)
    return float(value)


def whole_number(
    options: Mapping[str, Any], name: str, default: int, path: str, *, most: int
) -> int:
    """Returns an option that is a whole number from 0 to `most`; see `number`.

    Raises:
      InputError: if the option is anything else.
    """
    value = options.get(name, default)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most or value != int(value):
        raise _invalid(name, value, f"a whole number from 0 to {most}", path)
    return int(value)


def flag(options: Mapping[str, Any], name: str, default: bool, path: str) -> bool:
    """Returns an option that is True or False; see `number`.

    Raises:
      InputError: if the option is anything else. Text such as "False" would be true.
    """
    value = options.get(name, default)
    if not isinstance(value, numbers.Integral) or value not in (0, 1):
        raise _invalid(name, value, "True or False", path)
    return bool(value)


def choice(
    options: Mapping[str, Any],
    name: str,
    default: str,
    path: str,
    allowed: Collection[str],
) -> str:
    """Returns an option that is one of some words; see `number`.

    Raises:
      InputError: if the option is anything else.
    """
    value = options.get(name, default)
    if not isinstance(value, str) or value not in allowed:
        raise _invalid(name, value, f"one of {', '.join(map(repr, allowed))}", path)
    return value


def _invalid(name, value, expected, path):
    return InputError(
        f"{path}: its option {name} is {short(value)}; expected {expected}; {_ADVICE}"
    )
