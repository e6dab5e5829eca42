"""Reads files that PyTorch saved, without running code in them."""

import argparse
import codecs
import pickle
from typing import Any

import numpy as np
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, one_line, unreadable


def read(path: str) -> Any:
    """Reads a `.pth` or `.pth.tar` file.

    Only tensors, numbers, text and their containers, options of `argparse` and numpy's
    scalars are admitted, since a pickle can call any function.

    Args:
      path: path of the file; may be `gs://`.

    Returns:
      The content, with tensors as numpy arrays and options as a dict.

    Raises:
      InputError: if the file does not exist, is damaged or contains anything else, such
        as tensors that numpy cannot have, or if PyTorch is not installed.
    """
    try:
        # Safe after TensorFlow only without PyTorch's compiler, `torch._dynamo`, which
        # crashes the process. `torch.optim` imports it too.
        import torch
    except ImportError:
        raise InputError(
            f"{path}: reading it needs PyTorch, which is not installed; pip install "
            "torch"
        ) from None
    try:
        with (
            files.open_binary(epath.Path(path).expanduser()) as file,
            torch.serialization.safe_globals(_admitted()),
        ):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise unreadable(path, error) from None
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, since it is damaged or contains more than tensors and "
            f"options ({_refused_name(error)}); such a file could run any code"
        ) from None
    # A damaged file may raise anything.
    except Exception as error:
        raise InputError(
            f"{path}: not a PyTorch file, or damaged ({one_line(error)}); download it "
            "again"
        ) from None
    try:
        return _to_numpy(content)
    except (TypeError, RuntimeError) as error:  # sparse, quantized, 8-bit floats, ...
        raise InputError(
            f"{path}: contains a tensor that numpy cannot have ({one_line(error)}); "
            "convert it to a dense one of float32"
        ) from None


def _admitted() -> list:
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")]
    return [
        argparse.Namespace,
        np.dtype,
        *dtypes,
        (codecs.encode, "_codecs.encode"),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _refused_name(error):
    """Returns PyTorch's message on the first object it refused, without advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return (named or lines or [type(error).__name__])[0][:200]


def _to_numpy(value):
    if hasattr(value, "detach"):
        tensor = value.detach()
        # numpy has no bfloat16.
        is_bfloat16 = str(tensor.dtype) == "torch.bfloat16"
        return (tensor.float() if is_bfloat16 else tensor).numpy()
    if isinstance(value, argparse.Namespace):
        return _to_numpy(vars(value))
    if isinstance(value, dict):
        return {key: _to_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_numpy(item) for item in value]
    return value
