"""Names and options of BERT's files in Hugging Face's layout."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vse_jax.errors import InputError
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import tower_names

MODEL_TYPES = ("bert",)  # in `config.json`

_SEGMENTS = "embeddings.token_type_embeddings.weight"
# Names of Hugging Face by paths of ours. A kernel is transposed.
_EMBEDDINGS = {
    ("words", "embedding"): "embeddings.word_embeddings.weight",
    ("positions",): "embeddings.position_embeddings.weight",
    ("segment",): _SEGMENTS,
    ("norm", "scale"): "embeddings.LayerNorm.weight",
    ("norm", "bias"): "embeddings.LayerNorm.bias",
}
_DENSE = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "out"): "attention.output.dense",
    ("hidden",): "intermediate.dense",
    ("out",): "output.dense",
}
_NORMS = {
    ("attention_norm",): "attention.output.LayerNorm",
    ("norm",): "output.LayerNorm",
}
# What old files leave out, and what BERT's first code had.
_DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
# Heads of other tasks, and a list of the numbers of the positions.
_UNUSED = re.compile(
    r"pooler\..*|cls\..*|classifier\..*|qa_outputs\..*|embeddings\.position_ids"
)
_PREFIX = "bert."
_OLD_NAMES = (
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of `config.model.text_tower` that `config.json` states.

    Raises:
      InputError: if its positions are not those of BERT, or if it is a decoder.
      KeyError: if an option is missing.
    """
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise InputError(
            f"its position_embedding_type is {kind!r}; expected 'absolute'; choose "
            "other weights"
        )
    for option in ("is_decoder", "is_causal"):
        if config.get(option):
            raise InputError(
                f"{option} is true, so its tokens attend to those before them only; "
                "choose the weights of an encoder"
            )
    config = _DEFAULTS | dict(config)
    names = tower_names.SIZES._replace(padding="")
    found = {option: config[name] for option, name in names._asdict().items() if name}
    return found | {"padding": 0}


def paths(sizes: TextSizes) -> dict[str, tuple[str, ...]]:
    """Returns our paths of all parameters, by the names of the file."""
    table = {name: path for path, name in _EMBEDDINGS.items()}
    for number in range(sizes.layers):
        ours, theirs = f"layer_{number}", f"encoder.layer.{number}."
        for group, first in ((_DENSE, "kernel"), (_NORMS, "scale")):
            for path, name in group.items():
                table[f"{theirs}{name}.weight"] = (ours, *path, first)
                table[f"{theirs}{name}.bias"] = (ours, *path, "bias")
    return table


def usual_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays that an encoder of captions uses, by their usual names.

    Names may have the prefix of a larger model, or an old spelling. Of the segments'
    embeddings only the first is kept, since a caption is one segment.
    """
    found = {_usual_name(name): array for name, array in arrays.items()}
    found = {n: array for n, array in found.items() if not _UNUSED.fullmatch(n)}
    segments = found.get(_SEGMENTS)
    if segments is not None and segments.ndim == 2:
        found[_SEGMENTS] = segments[0]
    return found


def _usual_name(name):
    name = name.removeprefix(_PREFIX)
    for old, new in _OLD_NAMES:
        name = name.replace(old, new)
    return name
