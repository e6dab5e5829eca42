"""Files that PyTorch saved, read without running what they may hold."""

import argparse
import codecs
import pickle
from typing import Any

import numpy as np
from etils import epath

from vse_jax.errors import InputError, one_line, unreadable


def read(path: str) -> Any:
    """Reads a `.pth` or `.pth.tar` file.

    Tensors, numbers, text and their containers, the options of `argparse` and numpy's
    scalars are admitted, and nothing else: a pickle can name any function to be called.

    Args:
      path: of the file; may be `gs://`.

    Returns:
      What was saved; tensors as numpy arrays, options as a dict.

    Raises:
      InputError: if there is no such file, it holds anything else or is damaged, or
        PyTorch is not installed.
    """
    try:
        # Safe after TensorFlow as long as `torch._dynamo` is not imported: PyTorch's
        # compiler, which `torch.optim` imports too, would crash the process.
        import torch
    except ImportError:
        raise InputError(
            f"{path}: a file of PyTorch, which is not installed; pip install torch"
        ) from None
    try:
        with (
            epath.Path(path).expanduser().open("rb") as file,
            torch.serialization.safe_globals(_admitted()),
        ):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise unreadable(path, error) from None
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, as it is damaged or holds more than tensors and options "
            f"({_refused_name(error)}); such a file could run any code"
        ) from None
    # A damaged file may raise anything.
    except Exception as error:
        raise InputError(
            f"{path}: not a file of PyTorch, or damaged ({one_line(error)}); get it "
            "anew"
        ) from None
    return _to_numpy(content)


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
    """What PyTorch says of the first thing it refused, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return (named or lines or [type(error).__name__])[0][:200]


def _to_numpy(value):
    if hasattr(value, "detach"):
        tensor = value.detach()
        # numpy has no such type.
        is_bfloat16 = str(tensor.dtype) == "torch.bfloat16"
        return (tensor.float() if is_bfloat16 else tensor).numpy()
    if isinstance(value, argparse.Namespace):
        return _to_numpy(vars(value))
    if isinstance(value, dict):
        return {key: _to_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_numpy(item) for item in value]
    return value
