"""BERT as the text encoder in checkpoint files of vse_infty."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from vse_jax.data.text.subwords import Subwords
from vse_jax.errors import InputError
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import (
    parameter_names,
    parameters,
    pretrained_folder,
    resolve,
    text_weights,
    tokenizer_files,
)
from vse_jax.torch_import.torch_checkpoint import TorchCheckpoint, refuse_unknown

_BERT = "txt.bert."
_WORDS = "embeddings.word_embeddings.weight"
# Matrices whose shapes tell the sizes.
_TABLES = (
    _WORDS,
    "embeddings.position_embeddings.weight",
    "encoder.layer.0.intermediate.dense.weight",
)
_NEEDED = ("txt.linear.weight", "txt.gpool.linear.weight")
# Google's BERTs have these sizes, and 64 dimensions in each attention head. Others,
# such as MiniLM with 384 dimensions, have fewer.
_PUBLISHED_DIMS = (128, 256, 512, 768, 1024)
_HEAD_DIM = 64


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


def variables(loaded: TorchCheckpoint, sizes: TextSizes, path: str) -> dict:
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


def _sizes(arrays: Mapping[str, np.ndarray], vocabulary: str, path: str) -> TextSizes:
    """Returns the sizes that parameters tell, with what `config.json` adds."""
    known = _known_sizes(arrays, path)
    file = _config_beside(vocabulary)
    stated = pretrained_folder.read_json(file) if file else {}
    for name, value in known.items():
        if stated.get(name, value) != value:
            raise InputError(
                f"{file}: its {name} is {stated[name]!r}, but the BERT in {path} has "
                f"{value}; set --vocabulary to the tokenizer of the BERT that it was "
                "trained from"
            )
    dim = known["hidden_size"]
    usual = dim // _HEAD_DIM if dim in _PUBLISHED_DIMS else None
    heads = stated.get("num_attention_heads", usual)
    if heads is None:
        raise InputError(
            f"{path}: its BERT has {dim} dimensions, so its number of attention heads "
            f"is not clear; set --vocabulary to a folder with tokenizer and "
            f"{pretrained_folder.CONFIG} of this BERT"
        )
    stated = stated | known | {"num_attention_heads": heads}
    sizes = text_weights.stated_sizes("bert", stated, file or path)
    resolve.check_sizes(sizes, "model.text_tower", str(file or path))
    return TextSizes(**sizes)


def _known_sizes(arrays, path):
    """Returns the sizes that parameters tell, by the names of `config.json`."""
    shapes = [arrays[name].shape if name in arrays else () for name in _TABLES]
    problems = {
        "missing or mis-shaped parameters": [
            f"{_BERT}{name}"
            for name, shape in zip(_TABLES, shapes, strict=True)
            if len(shape) != 2 or 0 in shape
        ]
    }
    parameters.refuse(f"{path}: not a model that can be imported", problems)
    (rows, dim), (positions, _), (mlp_dim, _) = shapes
    layers = {
        m[1] for name in arrays if (m := re.match(r"encoder\.layer\.(\d+)", name))
    }
    return {
        "num_hidden_layers": len(layers),
        "hidden_size": dim,
        "intermediate_size": mlp_dim,
        "max_position_embeddings": positions,
        "vocab_size": rows,
    }


def _config_beside(vocabulary: str) -> epath.Path | None:
    """Returns the `config.json` in the folder of the tokenizer; None without one."""
    if tokenizer_files.is_file(vocabulary):
        vocabulary = vocabulary.rpartition("/")[0] or "."
    path = tokenizer_files.find_folder(vocabulary) / pretrained_folder.CONFIG
    return path if path.exists() else None
