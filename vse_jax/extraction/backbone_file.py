"""The backbone that extracted a dataset's features, as a file beside the features.

A training on the features copies the file to its workdir, so that a photo can later be
embedded in the same way.
"""

import hashlib

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from vse_jax import files
from vse_jax.errors import InputError, unreadable

BACKBONE_FILE = "backbone.safetensors"


def write(variables: dict, directory: epath.Path, *, replace: bool) -> None:
    """Writes the variables of a backbone atomically.

    Args:
      variables: nested dicts of arrays, `params` and perhaps `batch_stats`.
      directory: folder of the file.
      replace: whether to write over a file that exists. An extraction that was
        interrupted before its first result may have left another backbone's.
    """
    path = directory / BACKBONE_FILE
    if path.exists() and not replace:
        return
    with files.unfinished(path) as unfinished:
        unfinished.write_bytes(to_safetensors(variables))


def to_safetensors(tree: dict, metadata: dict[str, str] | None = None) -> bytes:
    """Returns nested dicts of arrays as a safetensors file, names joined by `/`."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    arrays = {name: np.require(array, requirements="C") for name, array in flat.items()}
    return safetensors.numpy.save(arrays, metadata)


def copy(source: epath.Path, target: epath.Path, *, replace: bool) -> None:
    """Copies the file from one folder to another, if it exists.

    Args:
      source: folder of the features.
      target: folder of the run.
      replace: whether to write over a file that exists.
    """
    path = target / BACKBONE_FILE
    if not (source / BACKBONE_FILE).exists() or (path.exists() and not replace):
        return
    with files.unfinished(path) as unfinished:
        unfinished.write_bytes((source / BACKBONE_FILE).read_bytes())


def read(directory: epath.Path) -> dict:
    """Reads the variables that `write` wrote; {} if there is no file.

    Raises:
      InputError: if the file cannot be read or is damaged.
    """
    path = directory / BACKBONE_FILE
    try:
        arrays = safetensors.numpy.load(files.read_bytes(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(path, error) from None
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path}: is damaged ({error}); copy it from the folder of the features"
        ) from None
    return traverse_util.unflatten_dict(arrays, sep="/")


def digest(variables: dict) -> str:
    """Returns a SHA-256 of names, shapes and values of a backbone's variables."""
    checksum = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        checksum.update(f"{jax.tree_util.keystr(path)} {array.shape}".encode())
        checksum.update(array.tobytes())
    return checksum.hexdigest()
