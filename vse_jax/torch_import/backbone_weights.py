"""Reads pretrained weights of convolutional backbones from published files."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vse_jax.errors import InputError
from vse_jax.models import backbones
from vse_jax.torch_import import backbone_names, parameters, weight_file

_FEW_PROBLEMS = 8  # more suggest the weights of another architecture
_PREFIXES = ("backbone.", "cnn.", "model.", "resnet.")


def load(name: str, weights: str, *, pooled: bool = True) -> dict:
    """Reads the weights of a backbone.

    Code in a file or a package is never run.

    Args:
      name: name of the backbone, one of `SPECS`.
      weights: path, local or `gs://`, of a `.pth`, `.pth.tar` or `.safetensors` file
        with the names of torchvision, timm, efficientnet-lite-pytorch or the published
        bottom-up ResNet; or the name of an installed Python package that ships one.
      pooled: whether to include the layers between the regions and the pooled feature,
        which only VGG-19 has.

    Returns:
      Variables of `create_backbone(name, pooled=pooled)`: nested dicts of float32 numpy
      arrays under `params` and `batch_stats`.

    Raises:
      InputError: if the file or package does not exist, cannot be read or contains
        code, or if a parameter is missing, unexpected or mis-shaped.
    """
    if name == "stem":
        raise InputError(
            f"{weights}: there are no pretrained weights for the backbone stem; set "
            "config.model.backbone.name to one of "
            f"{', '.join(backbones.BACKBONES[1:])}, or config.model.backbone.weights "
            "to ''"
        )
    path = weight_file.find(weights)
    return convert(name, weight_file.read(path), path, pooled=pooled)


def convert(name: str, content: Any, path: str, *, pooled: bool = True) -> dict:
    """Converts the content of a file to the variables of a backbone; see `load`.

    Args:
      name: name of the backbone.
      content: arrays by PyTorch's names, or nested dicts of them.
      path: path of the file, for messages.
      pooled: see `load`.

    Raises:
      InputError: if a parameter is missing, unexpected, mis-shaped or not finite.
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
    parameters.refuse_impossible_values(f"{path}: not the weights of {name}", needed)
    flat = {
        our_path: np.asarray(parameters.in_our_order(needed[their_name]), np.float32)
        for their_name, our_path in table.items()
    }
    return traverse_util.unflatten_dict(flat)


def _unwrapped(content, path):
    """Returns the arrays by name, without nesting and prefixes of training code."""
    arrays = _flatten(weight_file.state_dict(content, path))
    return weight_file.unwrapped(arrays, _PREFIXES)


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
    """Returns the shapes of the backbone's variables by path."""
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
    """Returns the table of names that fits best, and the arrays that it needs."""
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
        {
            name: parameters.in_their_order(expected[path])
            for name, path in table.items()
        },
    )


def _advice(arrays, pooled):
    """Returns a note on the architectures that have these weights, if any."""
    fitting = []
    for name in list(backbones.SPECS)[1:]:
        # Few architectures have this first layer; checking all layers takes seconds.
        if backbone_names.has_first_layer(name, arrays):
            expected = shapes(name, pooled=pooled)
            problems = _problems(expected, *_matching(name, expected, arrays))
            if not any(problems.values()):
                fitting.append(name)
    return f"these are the weights of {' or '.join(fitting)}" if fitting else ""
