"""Checks that the description of a run in a checkpoint or an export is complete."""

import os

from configs import common
from vse_jax.errors import InputError

_LISTED = 3  # missing entries and options in a message
# Types of what `saved.describe` returns, besides `config`.
_KINDS = {
    "vocabulary": dict,
    "tokenizer": dict,
    "dtype": str,
    "preprocessing": dict | None,
    "dataset": dict | None,
    "extraction": dict | None,
}
# What JSON makes of the values of options.
_JSON_TYPES = {bool: {bool}, int: {int}, float: {int, float}, str: {str}, tuple: {list}}


def check_complete(run: dict, path: str | os.PathLike) -> None:
    """Checks that a description has all entries and options, of their types.

    Args:
      run: description in a checkpoint or an export.
      path: where it is from, for the message.

    Raises:
      InputError: if one is missing or of another type; names it.
    """
    entries = run if isinstance(run, dict) else {}  # JSON of any kind, if damaged
    missing = [entry for entry in ("config", *_KINDS) if entry not in entries]
    defaults = common.get_config().to_dict()
    if "config" in entries:
        missing += _missing_options(entries["config"], defaults)
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(
            f"{path}: lacks {', '.join(missing[:_LISTED])}{more}, since another "
            "version of vse_jax saved it; use that version, or train again with "
            "another --workdir"
        )
    wrong = [name for name, kinds in _KINDS.items() if not isinstance(run[name], kinds)]
    wrong += _of_other_types(run["config"], defaults, "config")
    if wrong:
        raise InputError(
            f"{path}: its {wrong[0]} is of another type than vse_jax saves; undo the "
            "change of the file, or copy it again"
        )


def _of_other_types(saved, expected, name):
    """Returns the dotted names of options whose types are not those of the defaults."""
    wrong = []
    for option, value in expected.items():
        found, option_name = saved[option], f"{name}.{option}"
        if isinstance(value, dict):
            wrong += _of_other_types(found, value, option_name)
        elif type(found) not in _JSON_TYPES[type(value)]:
            wrong.append(option_name)
    return wrong


def _missing_options(saved, defaults):
    missing = _missing(saved, defaults, "config")
    if not missing and isinstance(saved["fine_tuning"], list):
        stage = common.fine_tuning_stage(epochs=1, learning_rate=1.0).to_dict()
        for number, of_stage in enumerate(saved["fine_tuning"]):
            missing += _missing(of_stage, stage, f"config.fine_tuning[{number}]")
    return missing


def _missing(saved, expected, name):
    """Returns the dotted names of the expected options that are not in `saved`."""
    if not isinstance(saved, dict):
        return [name]
    missing = []
    for option, value in expected.items():
        if option not in saved:
            missing.append(f"{name}.{option}")
        elif isinstance(value, dict):
            missing += _missing(saved[option], value, f"{name}.{option}")
    return missing
