"""Reads pretrained models in Hugging Face's layout: `config.json` and weights.

A folder of this layout may be local, on `gs://`, or inside an installed Python package.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, unreadable
from vse_jax.excerpts import short
from vse_jax.torch_import import weight_file

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PREFIXES = ("model.",)  # of training code
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS)


class Pretrained(NamedTuple):
    """A pretrained model.

    Attributes:
      folder: folder of the model, which may also contain a tokenizer.
      config: content of `config.json`.
      arrays: parameters by the names of the file; numpy arrays of any float dtype.
    """

    folder: epath.Path
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]


def read(weights: str) -> Pretrained:
    """Reads a pretrained model.

    Args:
      weights: folder with `config.json` and `model.safetensors` or `pytorch_model.bin`,
        whole or in shards; path of one file of weights beside its `config.json`; or
        name of an installed Python package that ships such a folder.

    Raises:
      InputError: if a file is missing, damaged or contains code.
    """
    folder = find(weights)
    paths = [weights] if _is_file(weights) else _files(folder)
    arrays = {}
    for file in paths:
        arrays |= _named_arrays(weight_file.read(file), file)
    arrays = weight_file.unwrapped(arrays, _PREFIXES)
    return Pretrained(folder, read_json(folder / CONFIG), arrays)


def read_config(weights: str) -> dict[str, Any]:
    """Returns the content of the model's `config.json`; see `read`.

    Raises:
      InputError: if the file is missing or not a JSON object.
    """
    return read_json(find(weights) / CONFIG)


def find(weights: str) -> epath.Path:
    """Returns the folder of a pretrained model; see `read`.

    Raises:
      InputError: if there is no such folder or package, or if it has no `config.json`.
    """
    path = epath.Path(weights).expanduser()
    if _is_file(weights):
        path = path.parent
    elif not path.is_dir():
        if "/" in weights:
            raise InputError(
                f"{weights}: no such folder; expected a pretrained model with {CONFIG}"
            )
        path = _folder_in_package(weights)
    if not (path / CONFIG).exists():
        raise InputError(
            f"{path}: has no {CONFIG}; expected a pretrained model in Hugging Face's "
            "layout; download the whole folder"
        )
    return path


def _is_file(weights):
    """Returns whether this is the path of a file; a folder may be named as one."""
    is_named_so = weights.endswith(weight_file.SUFFIXES)
    return is_named_so and not epath.Path(weights).expanduser().is_dir()


def read_json(path: epath.Path) -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
      InputError: if the file cannot be read or contains anything else.
    """
    try:
        content = json.loads(files.read_bytes(path))
    except OSError as error:
        raise unreadable(path, error) from None
    except (RecursionError, ValueError):  # nested too deep, or no JSON
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object; download it again")
    return content


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the options of a part of a model.

    Args:
      config: content of `config.json`. A file of the part alone has no sections.
      name: name of the section, such as `text_config`. In old files a section
        `text_config_dict` replaces it, also where it lacks an option.

    Raises:
      InputError: if the section is not a JSON object. The message names no file.
    """
    for key in (f"{name}_dict", name):
        options = config.get(key)
        if isinstance(options, dict):
            return options
        if options is not None:
            raise InputError(
                f"its {key} is {short(options)}; expected a JSON object; download "
                "the model again"
            )
    return dict(config)


def read_lines(path: epath.Path) -> list[str]:
    """Returns the lines of a UTF-8 text; only `\\n` ends a line.

    A token may be any other line separator of Unicode.

    Raises:
      InputError: if the file cannot be read or is not UTF-8.
    """
    try:
        return files.read_bytes(path).decode().rstrip("\n").split("\n")
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text in UTF-8; download it again") from None


def _folder_in_package(package):
    """Returns the folder in a package that has `config.json` beside weights."""
    paths = weight_file.package_files(package, instead_of=f"folder with {CONFIG}")
    weights = {path.parent for path in paths if path.name in _WEIGHTS + _INDEXES}
    folders = sorted({p.parent for p in paths if p.name == CONFIG} & weights)
    if len(folders) != 1:
        raise InputError(
            f"{package}: this Python package ships {len(folders)} folders with "
            f"{CONFIG} and {' or '.join(_WEIGHTS)}; expected one; give the path of a "
            "folder instead"
        )
    return epath.Path(folders[0])


def _files(folder):
    """Returns the paths of the files of weights, of which a model may have several."""
    for name, index in zip(_WEIGHTS, _INDEXES, strict=True):
        if (folder / name).exists():
            return [str(folder / name)]
        if (folder / index).exists():
            return [str(folder / shard) for shard in _shards(folder / index)]
    raise InputError(
        f"{folder}: has no {' or '.join(_WEIGHTS)}; download the weights too"
    )


def _shards(path):
    table = read_json(path).get("weight_map")
    files = list(table.values()) if isinstance(table, dict) else []
    if not files or not all(isinstance(file, str) for file in files):
        raise InputError(
            f"{path}: its weight_map does not name the files of the parameters; "
            "download it again"
        )
    return sorted(set(files))


def _named_arrays(content, file):
    """Returns the arrays of a state dict, without what training code put beside."""
    named = weight_file.state_dict(content, file)
    arrays = {n: a for n, a in named.items() if isinstance(a, np.ndarray)}
    if not arrays:
        raise weight_file.without_parameters(file)
    return arrays
