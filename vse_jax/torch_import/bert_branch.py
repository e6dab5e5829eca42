"""BERT as the text encoder in checkpoint files of vse_infty."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vse_jax.data.text.subwords import Subwords
from vse_jax.errors import InputError
from vse_jax.models.transformers.sizes import Sizes
from vse_jax.torch_import import (
    parameter_names,
    pretrained_folder,
    text_weights,
    tokenizer_files,
)
from vse_jax.torch_import.torch_checkpoint import TorchCheckpoint, refuse_unknown

_BERT = "txt.bert."
_WORDS = "embeddings.word_embeddings.weight"
_NEEDED = ("txt.linear.weight", "txt.gpool.linear.weight")
_HEAD_DIM = 64  # of every published BERT


def is_in(loaded: TorchCheckpoint) -> bool:
    """Returns whether the text encoder of a checkpoint is BERT."""
    return f"{_BERT}{_WORDS}" in loaded.arrays


def options(loaded: TorchCheckpoint, vocabulary: str, path: str) -> dict[str, Any]:
    """Returns the options of the text encoder, by dotted names of the configuration.

    Args:
      loaded: the checkpoint.
      vocabulary: tokenizer, perhaps in the folder of a BERT. Its `config.json` states
        the number of attention heads, which parameters do not tell.
      path: path of the checkpoint, for messages.

    Raises:
      InputError: if there are unknown parameters, or if the sizes are not clear.
    """
    refuse_unknown(_head(loaded), _NEEDED, path)
    sizes = _sizes(_arrays(loaded), vocabulary, path)
    return {
        "data.vocabulary": "checkpoint",
        "model.text_encoder": "bert",
        **{f"model.text_tower.{name}": v for name, v in sizes._asdict().items()},
    }


def read_tokenizer(loaded: TorchCheckpoint, vocabulary: str) -> Subwords:
    """Reads the tokenizer of a checkpoint.

    Args:
      loaded: the checkpoint.
      vocabulary: see `tokenizer_files.read`.

    Raises:
      InputError: if it cannot be read, or if it is of another model.
    """
    tokenizer = tokenizer_files.read(vocabulary)
    rows = len(_arrays(loaded)[_WORDS])
    text_weights.check_tokenizer(tokenizer, rows, vocabulary)
    return tokenizer


def variables(loaded: TorchCheckpoint, sizes: Sizes, path: str) -> dict:
    """Returns the variables of the text encoder: nested dicts below `params`.

    Raises:
      InputError: if a parameter of BERT is missing, unexpected or mis-shaped.
    """
    converted = parameter_names.variables(_head(loaded))
    tower = text_weights.convert("bert", sizes, _arrays(loaded), path)
    converted["params"]["text"]["transformer"] = tower
    return converted


def _arrays(loaded) -> dict[str, np.ndarray]:
    """Returns BERT's parameters by the names of transformers."""
    arrays = loaded.branch("txt").items()
    return {name.removeprefix(_BERT): a for name, a in arrays if name.startswith(_BERT)}


def _head(loaded) -> dict[str, np.ndarray]:
    """Returns the parameters of the linear layer and the pooling."""
    arrays = loaded.branch("txt").items()
    return {name: array for name, array in arrays if not name.startswith(_BERT)}


def _sizes(arrays: Mapping[str, np.ndarray], vocabulary: str, path: str) -> Sizes:
    rows, dim = arrays[_WORDS].shape
    layers = {
        m[1] for name in arrays if (m := re.match(r"encoder\.layer\.(\d+)", name))
    }
    first = arrays.get("encoder.layer.0.intermediate.dense.weight", np.zeros((0, 0)))
    positions = arrays.get("embeddings.position_embeddings.weight", np.zeros((0, 0)))
    stated = _config_beside(vocabulary)
    heads = stated.get("num_attention_heads", dim // _HEAD_DIM)
    if not heads or dim % heads:
        raise InputError(
            f"{path}: its BERT has {dim} dimensions, so its number of attention heads "
            f"is not clear; set --vocabulary to a folder with tokenizer and "
            f"{pretrained_folder.CONFIG} of this BERT"
        )
    return Sizes(
        layers=len(layers),
        dim=dim,
        heads=heads,
        mlp_dim=len(first),
        positions=len(positions),
        vocabulary_size=rows,
        activation=stated.get("hidden_act", "gelu"),
        epsilon=float(stated.get("layer_norm_eps", 1e-12)),
    )


def _config_beside(vocabulary: str) -> dict[str, Any]:
    """Returns the `config.json` in the folder of the tokenizer; {} without one."""
    if tokenizer_files.is_file(vocabulary):
        vocabulary = vocabulary.rpartition("/")[0] or "."
    folder = tokenizer_files.find_folder(vocabulary)
    path = folder / pretrained_folder.CONFIG
    return pretrained_folder.read_json(path) if path.exists() else {}
