"""Pretrained text transformers: their sizes, tokenizers and parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from vse_jax.data.text.subwords import Subwords
from vse_jax.errors import InputError
from vse_jax.excerpts import short
from vse_jax.models.text_encoders.transformer import TOWERS
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import (
    bert_files,
    clip_files,
    pretrained_folder,
    tokenizer_files,
    tokenizer_padding,
    tower_names,
    towers,
)

# Properties of the files of a tower.
_FILES = {
    "bert": bert_files,
    "clip_text": clip_files.CLIP,
    "siglip_text": clip_files.SIGLIP,
}
_READ_PADDING = ("siglip_text",)  # the others ignore what is behind a caption
_TYPES = {"activation": str, "epsilon": float}  # of sizes; int of the others
_MOST = 10**8  # a larger size is a damaged option, and would need all memory
_MOST_LAYERS = 1000
_LEGACY_END = 2  # `eos_token_id` in the first files of CLIP
# Tables of tokens may be padded, so that their rows are a multiple of this.
_MOST_UNUSED_ROWS = 127


def read_sizes(encoder: str, weights: str) -> dict[str, Any]:
    """Returns the fields of `TextSizes` of a pretrained text transformer.

    Args:
      encoder: one of `TOWERS`.
      weights: see `pretrained_folder.read`; only `config.json` and the tokenizer's
        files are read.

    Raises:
      InputError: if the weights are of another architecture or lack a size, or if
        captions are padded in a way that is not supported.
    """
    config = pretrained_folder.read_config(weights)
    path = pretrained_folder.find(weights) / pretrained_folder.CONFIG
    _check_type(config.get("model_type"), encoder, path)
    padding = tokenizer_padding.read(weights, is_read=encoder in _READ_PADDING)
    return stated_sizes(encoder, config, path, padding)


def stated_sizes(
    encoder: str,
    config: Mapping[str, Any],
    path: epath.PathLike,
    padding: int | None = None,
) -> dict[str, Any]:
    """Returns the fields of `TextSizes` that options of Hugging Face state.

    Args:
      encoder: one of `TOWERS`.
      config: content of `config.json`.
      path: of the file, for messages.
      padding: token behind captions, of the tokenizer; None for that of the options.

    Raises:
      InputError: if a size is missing or has a wrong type.
    """
    try:
        found = _FILES[encoder].sizes(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except KeyError as error:
        raise InputError(
            f"{path}: has no {error.args[0]}; download the model again"
        ) from None
    if padding is not None:
        found |= {"padding": padding}
    for name, value in found.items():
        kind = _TYPES.get(name, int)
        if not isinstance(value, kind) or isinstance(value, bool):
            theirs = getattr(tower_names.SIZES, name)
            raise InputError(
                f"{path}: its {theirs} is {short(value)}; expected "
                f"{kind.__name__}; download the model again"
            )
        most = _MOST_LAYERS if name == "layers" else _MOST
        if kind is not str and not -most <= value <= most:
            raise InputError(
                f"{path}: its {getattr(tower_names.SIZES, name)} is "
                f"{short(value)}; expected at most {most}; download "
                "the model again"
            )
    is_read, rows = encoder in _READ_PADDING, found["vocabulary_size"]
    if is_read and not 0 <= found["padding"] < rows:
        raise InputError(
            f"{path}: its padding is the token {found['padding']}; expected one of its "
            f"{rows} tokens; download the model again"
        )
    return found


def _check_type(kind, encoder, path):
    kinds = _FILES[encoder].MODEL_TYPES
    if kind in kinds:
        return
    advice = "choose other weights"
    if kind is None:
        advice = f'if it is one, add "model_type": "{kinds[0]}" to the file'
    raise InputError(
        f"{path}: its model_type is {kind!r}, but config.model.text_encoder is "
        f"{encoder!r}, which takes weights of {' or '.join(kinds)}; {advice}"
    )


def read_tokenizer(config: ml_collections.ConfigDict) -> Subwords:
    """Reads the tokenizer of the pretrained text transformer.

    Args:
      config: see `configs/common.py`, with the sizes of the weights, see `resolved`.

    Raises:
      InputError: if there is none, or if it is not that of the weights.
    """
    weights = config.model.text_weights
    lowers = config.model.text_encoder == "siglip_text"
    found = tokenizer_files.read(weights, lowers=lowers)
    check_tokenizer(found, config.model.text_tower.vocabulary_size, weights)
    if config.model.text_encoder == "clip_text":
        _check_end(found, weights)
    return found


def _check_end(tokenizer: Subwords, weights: str) -> None:
    """Checks that captions end with the token at which CLIP summarizes them."""
    options = clip_files.CLIP.options(pretrained_folder.read_config(weights))
    ends = options["eos_token_id"]
    if ends == _LEGACY_END:  # the token with the largest number
        ends = len(tokenizer) - 1
    if ends is not None and tokenizer.end not in np.atleast_1d(ends).tolist():
        raise InputError(
            f"{weights}: its tokenizer ends captions with token {tokenizer.end}, but "
            f"config.json says {ends}; use the tokenizer that came with the weights"
        )


def check_tokenizer(tokenizer: Subwords, rows: int, name: str) -> None:
    """Raises InputError if the tokenizer is not that of a table with this many rows."""
    if not 0 <= rows - len(tokenizer) <= _MOST_UNUSED_ROWS:
        raise InputError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens, but its weights have "
            f"{rows}; use the tokenizer that came with the weights"
        )


def load(config: ml_collections.ConfigDict) -> dict:
    """Reads the parameters of the pretrained text transformer.

    Args:
      config: see `configs/common.py`, with the sizes of the weights, see `resolved`.

    Returns:
      Parameters of the transformer: nested dicts of float32 arrays.

    Raises:
      InputError: if the weights cannot be read, or if a parameter is missing,
        unexpected or mis-shaped.
    """
    model = config.model
    arrays = pretrained_folder.read(model.text_weights).arrays
    sizes = TextSizes(**model.text_tower)
    return convert(model.text_encoder, sizes, arrays, model.text_weights)


def convert(
    encoder: str, sizes: TextSizes, arrays: Mapping[str, np.ndarray], name: str
) -> dict:
    """Converts the parameters of a text transformer to ours; see `load`.

    Args:
      encoder: one of `TOWERS`.
      sizes: sizes of the transformer.
      arrays: parameters by the names of the file.
      name: name of the file, for messages.
    """
    files = _FILES[encoder]
    one = jax.ShapeDtypeStruct((1, 1), np.int32), jax.ShapeDtypeStruct((1,), np.int32)
    return towers.convert(
        files.usual_arrays(arrays),
        {path: key for key, path in files.paths(sizes).items()},
        towers.shapes_of(TOWERS[encoder](sizes), *one),
        f"{name}: not the weights of the {encoder} that its sizes describe",
    )
