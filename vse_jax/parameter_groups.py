"""Parameter groups: parameters with their own learning rate or weight decay.

`config.optimizer.groups` and each stage of `config.fine_tuning` list groups, which
`configs.common.parameter_group` creates. A group's pattern is a regular expression
that must match the whole path of a parameter, such as `image/backbone/stem/kernel`.
The first group that matches a parameter applies to it.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from vse_jax.errors import InputError

DEFAULT = "default"  # label of parameters without a group
_FIELDS = {"pattern", "learning_rate", "weight_decay", "frozen"}

Groups = Sequence[ml_collections.ConfigDict]


def label_of(number: int) -> str:
    """Returns the label of the group with this position in its list."""
    return f"group_{number}"


def labels(groups: Groups, params: Any) -> Any:
    """Labels each parameter with its group, for `optax.partition`.

    Args:
      groups: groups in order of precedence.
      params: tree of arrays or shapes.

    Returns:
      A tree like `params` with `label_of(number)` or `DEFAULT` as leaves.
    """
    patterns = [re.compile(group.pattern) for group in groups]

    def label(path, _):
        name = _name(path)
        for number, pattern in enumerate(patterns):
            if pattern.fullmatch(name):
                return label_of(number)
        return DEFAULT

    return jax.tree_util.tree_map_with_path(label, params)


def frozen(groups: Groups, params: Any) -> Any:
    """Returns a tree like `params` that is True where a parameter is frozen."""
    is_frozen = {label_of(i): bool(group.frozen) for i, group in enumerate(groups)}
    return jax.tree.map(
        lambda label: is_frozen.get(label, False), labels(groups, params)
    )


def of_model(params: Any) -> Any:
    """Returns a tree like `params` that is False for the scalars of the loss."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _is_of_model(_name(path)), params
    )


def stop_frozen(groups: Groups, params: Any) -> Any:
    """Stops the gradient of frozen parameters, so that it is not computed."""
    return jax.tree.map(
        lambda is_frozen, x: jax.lax.stop_gradient(x) if is_frozen else x,
        frozen(groups, params),
        params,
    )


def check_options(groups: Groups, option: str) -> None:
    """Checks the options of parameter groups.

    Args:
      groups: groups to check.
      option: option that lists them, such as `optimizer.groups`, for messages.

    Raises:
      InputError: if an option is invalid; names it and the values that it takes.
    """
    for number, group in enumerate(groups):
        where = f"config.{option}[{number}]"
        is_group = isinstance(group, ml_collections.ConfigDict)
        if not is_group or set(group) != _FIELDS:
            raise InputError(
                f"{where} is not a parameter group; create it with "
                "configs.common.parameter_group(pattern, ...)"
            )
        _check_pattern(group.pattern, where)
        if not _is_number(group.learning_rate) or group.learning_rate <= 0:
            raise InputError(
                f"{where}.learning_rate is {group.learning_rate!r}; expected a factor "
                "greater than 0; set frozen=True to keep these parameters unchanged"
            )
        decay = group.weight_decay
        if decay is not None and not (_is_number(decay) and decay >= 0):
            raise InputError(
                f"{where}.weight_decay is {decay!r}; expected a number of at least 0, "
                "or None to use config.optimizer.weight_decay, except for the scalars "
                "of the loss, which do not decay then"
            )
        if not isinstance(group.frozen, bool):
            raise InputError(
                f"{where}.frozen is {group.frozen!r}; expected True or False"
            )


def check_matches(groups: Groups, option: str, params: Any) -> None:
    """Checks that each group has a parameter and that the model is trained.

    Args:
      groups: groups with valid options.
      option: option that lists them, such as `optimizer.groups`, for messages.
      params: tree of arrays or shapes.

    Raises:
      InputError: if a group has no parameter, or if all parameters are frozen.
    """
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    used = set(jax.tree.leaves(labels(groups, params)))
    for number, group in enumerate(groups):
        if label_of(number) in used:
            continue
        where = f"config.{option}[{number}].pattern is {group.pattern!r}, which matches"
        if any(re.fullmatch(group.pattern, name) for name in names):
            raise InputError(
                f"{where} only parameters of earlier groups; move it before them"
            )
        raise InputError(
            f"{where} no parameter; a pattern must match a whole path, and paths begin "
            f"with {', '.join(_top_level(names))}"
        )
    is_frozen = zip(names, jax.tree.leaves(frozen(groups, params)), strict=True)
    # The scalars of a loss cannot learn to retrieve anything.
    if groups and all(value for name, value in is_frozen if _is_of_model(name)):
        raise InputError(
            f"config.{option} freezes every parameter of the model; train some of them"
        )


def _check_pattern(pattern, where):
    if not isinstance(pattern, str) or not pattern:
        raise InputError(
            f"{where}.pattern is {pattern!r}; expected a regular expression such as "
            "'image/backbone/.*'"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{where}.pattern is {pattern!r}, which is not a regular expression "
            f"({error}); an example is 'image/backbone/.*'"
        ) from error


def _is_number(value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _is_of_model(name):
    return not name.startswith("loss/")


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _top_level(names):
    """Returns the distinct first two parts of the paths, such as `image/encoder/`."""
    parts = [name.split("/") for name in names]
    return dict.fromkeys(
        "/".join(part[:2]) + ("/" if len(part) > 2 else "") for part in parts
    )
