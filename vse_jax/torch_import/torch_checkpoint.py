"""The content of the checkpoint files of vsepp, vse_infty and RVSE++."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vse_jax.errors import InputError
from vse_jax.torch_import import (
    parameter_names,
    parameters,
    torch_file,
    training_options,
    weight_file,
)

_BRANCHES = ("img", "txt")  # in the order in which those repositories save them
_BACKBONES = ("img.cnn.", "img.backbone.")  # of vsepp and of vse_infty
# vse_infty's encoder after a CNN has the names of an encoder without one below this.
_MOST_UPDATES = 2**31 - 1  # a checkpoint counts them in int32
_AFTER_BACKBONE = "img.image_encoder."


class TorchCheckpoint(NamedTuple):
    """The content of a checkpoint file of the PyTorch repositories.

    Attributes:
      arrays: parameters and running statistics by PyTorch's names, with the prefix
        `img.` or `txt.`.
      backbone: parameters and running statistics of the CNN, if there is one.
      options: options of the training.
      step: number of updates, or of epochs if updates were not counted.
    """

    arrays: dict[str, np.ndarray]
    backbone: dict[str, np.ndarray]
    options: dict[str, Any]
    step: int

    def branch(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns the arrays of one encoder, by their names with the prefix."""
        return {
            name: array
            for name, array in self.arrays.items()
            if name.startswith(f"{prefix}.")
        }

    def refuse_impossible_values(self, path: str) -> None:
        """Checks the parameters of the encoders; those of a CNN or BERT are theirs.

        Raises:
          InputError: if one is not of finite numbers; see `parameters`.
        """
        used = {
            name: array
            for name, array in self.arrays.items()
            if not parameter_names.is_unused(name) and _is_known(name)
        }
        reason = f"{path}: not a model that can be imported"
        parameters.refuse_impossible_values(reason, used)


def read(path: str) -> TorchCheckpoint:
    """Reads a checkpoint of vsepp, vse_infty or RVSE++; see `torch_file.read`.

    Raises:
      InputError: if the file cannot be read, if it is not such a checkpoint, or if its
        number of updates is impossible.
    """
    content = torch_file.read(path)
    try:
        branches, options = content["model"], dict(content["opt"])
        arrays = {
            f"{branch}.{name}": np.asarray(array)
            for branch, tree in zip(_BRANCHES, branches, strict=True)
            for name, array in weight_file.unwrapped(tree, ()).items()
        }
        backbone = {
            name.removeprefix(prefix): arrays.pop(name)
            for prefix in _BACKBONES
            for name in list(arrays)
            if name.startswith(prefix)
        }
        arrays = {
            re.sub(f"^{re.escape(_AFTER_BACKBONE)}", "img.", name): array
            for name, array in arrays.items()
        }
        counted = "Eiters" if content.get("Eiters") else "epoch"
        updates = {counted: content.get(counted) or 0}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: not a checkpoint of vsepp, vse_infty or RVSE++; expected 'model' "
            "(the parameters of the image encoder and of the text encoder) and 'opt'"
        ) from None
    step = training_options.whole_number(updates, counted, 0, path, most=_MOST_UPDATES)
    return TorchCheckpoint(arrays, backbone, options, step)


def refuse_unknown(
    arrays: Mapping[str, np.ndarray], needed: Iterable[str], path: str
) -> None:
    """Checks the names of an encoder's parameters.

    Args:
      arrays: of the encoder, by their names with the prefix.
      needed: names without which the encoder cannot be recognized.
      path: path of the file, for messages.

    Raises:
      InputError: if a name is unknown or missing.
    """
    parameters.refuse(
        f"{path}: not a model that can be imported",
        {
            "unexpected parameters": [n for n in arrays if not _is_known(n)],
            "missing parameters": sorted(set(needed) - arrays.keys()),
        },
    )


def refuse_other_than_matrices(
    arrays: Mapping[str, np.ndarray], names: Iterable[str], path: str
) -> None:
    """Checks parameters whose shapes tell the sizes of a model.

    Args:
      arrays: by name.
      names: of the parameters that tell sizes; those that are missing are left out.
      path: path of the file, for messages.

    Raises:
      InputError: if one of them has not two axes, both of at least one number.
    """
    shapes = {name: arrays[name].shape for name in names if name in arrays}
    parameters.refuse(
        f"{path}: not a model that can be imported",
        {
            "mis-shaped parameters": [
                f"{name} {shape} instead of a matrix"
                for name, shape in shapes.items()
                if len(shape) != 2 or 0 in shape
            ]
        },
    )


def _is_known(name):
    try:
        return parameter_names.is_unused(name) or bool(parameter_names.our_path(name))
    except KeyError:
        return False
