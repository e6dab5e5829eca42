"""Checks of the value of one option; each raises InputError that names the option."""

import math
from collections.abc import Iterable

import ml_collections
from ml_collections.config_flags import config_path

from vse_jax.errors import InputError


def value_of(config: ml_collections.ConfigDict, option: str):
    """Returns the value of an option, such as `fine_tuning[0].epochs`."""
    return config_path.get_value(option, config)


def check_choice(
    config: ml_collections.ConfigDict, option: str, allowed: Iterable
) -> None:
    """Checks that the value is one of a few."""
    require(config, option, value_of(config, option) in allowed, one_of(allowed))


def check_numbers(config: ml_collections.ConfigDict, kind: type, *options: str) -> None:
    """Checks tuples of numbers of a kind: `int`, or `int | float`."""
    whole, limit = ("whole ", 2**31) if kind is int else ("", math.inf)
    for option in options:
        numbers = value_of(config, option)
        are_numbers = isinstance(numbers, tuple | list) and all(
            isinstance(number, kind)
            and not isinstance(number, bool)
            and 0 <= number < limit
            for number in numbers
        )
        below = f" and less than {limit}" if kind is int else ""
        expected = f"a tuple of {whole}numbers, at least 0{below}"
        require(config, option, are_numbers, expected)


def check_positive(config: ml_collections.ConfigDict, *options: str) -> None:
    """Checks numbers that are more than 0, and finite."""
    for option in options:
        is_right = 0 < value_of(config, option) < math.inf
        require(config, option, is_right, "more than 0, and finite")


def check_at_least_one(config: ml_collections.ConfigDict, *options: str) -> None:
    """Checks numbers that are at least 1."""
    for option in options:
        require(config, option, value_of(config, option) >= 1, "at least 1")


def check_less(config: ml_collections.ConfigDict, limit: int, *options: str) -> None:
    """Checks numbers that are less than a limit."""
    for option in options:
        is_right = value_of(config, option) < limit
        require(config, option, is_right, f"less than {limit}")


def require(
    config: ml_collections.ConfigDict, option: str, is_right: bool, expected: str
) -> None:
    """Raises InputError unless the value is right; names it and what is expected."""
    if not is_right:
        value = value_of(config, option)
        raise InputError(f"config.{option} is {value!r}; expected {expected}")


def one_of(allowed: Iterable[str]) -> str:
    """Returns the words for several values, such as "one of 'a', 'b'"."""
    return f"one of {', '.join(map(repr, allowed))}"
