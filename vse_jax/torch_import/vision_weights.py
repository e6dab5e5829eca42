"""Reads CLIP's, SigLIP's and DINOv2's vision transformers from Hugging Face's files."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vse_jax.errors import InputError
from vse_jax.excerpts import short
from vse_jax.models import backbones
from vse_jax.models.backbones import VisionSizes
from vse_jax.torch_import import pretrained_folder, tower_names, towers

# `model_type` in `config.json`, of the whole model and of its vision tower alone.
MODEL_TYPES = {
    "clip_vision": ("clip", "clip_vision_model"),
    "siglip_vision": ("siglip", "siglip_vision_model"),
    "dinov2": ("dinov2", "dinov2_with_registers"),
}
_PREFIXES = ("vision_model.", "dinov2.", "dinov2_with_registers.")
# Parameters of the text tower, of heads and of the pretraining.
_UNUSED = (
    r"text_model\..*|(text|visual)_projection\.weight|logit_(scale|bias)|classifier\..*"
    r"|.*position_ids|embeddings\.mask_token"
)
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "mlp_ratio": 4,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,  # of SigLIP, and of DINOv2 with registers
    "num_register_tokens": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
    "num_channels": 3,
    "qkv_bias": True,
}
_MOST = 10**6  # a larger size is a damaged option, and would need all memory
_MOST_LAYERS = 1000
_OF_DINOV2 = ("mlp_ratio", "num_register_tokens", "qkv_bias", "use_swiglu_ffn")
# The least values of whole numbers, and the types of other options.
_LEAST = {
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 1,
    "patch_size": 1,
    "num_register_tokens": 0,
}
_KINDS = {
    "mlp_ratio": (int | float, "a number"),
    "layer_norm_eps": (int | float, "a number"),
    "hidden_act": (str, "a name"),
}
_CLIP = {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh"}
# Files leave out what equals the defaults of a model type: these and the above.
_OF_TYPE = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": {"patch_size": 14},
    "dinov2_with_registers": {"num_register_tokens": 4},
}


def read_sizes(name: str, weights: str) -> dict[str, Any]:
    """Returns the fields of `VisionSizes` except mean and std.

    Args:
      name: one of `backbones.FAMILIES`.
      weights: see `pretrained_folder.read`; only `config.json` is read.

    Raises:
      InputError: if the folder has another model, or one that is not supported.
    """
    path = pretrained_folder.find(weights) / pretrained_folder.CONFIG
    config = pretrained_folder.read_config(weights)
    kind = config.get("model_type")
    if kind not in MODEL_TYPES[name]:
        raise InputError(_of_other_type(path, kind, name))
    try:
        config = pretrained_folder.section(config, "vision_config")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if name != "dinov2":  # Hugging Face's code does not read them either
        config = {key: v for key, v in config.items() if key not in _OF_DINOV2}
    config = _DEFAULTS | _OF_TYPE[kind] | config
    _check(config, path)
    dim = config["hidden_size"]
    mlp_dim = config["intermediate_size"]
    if name == "dinov2":
        mlp_dim = int(dim * config["mlp_ratio"])
    if config["use_swiglu_ffn"]:
        mlp_dim = (int(mlp_dim * 2 / 3) + 7) // 8 * 8
    return {
        "dim": dim,
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_dim": mlp_dim,
        "patch": config["patch_size"],
        "image_size": config["image_size"],
        "registers": config["num_register_tokens"],
        "activation": config["hidden_act"],
        "epsilon": float(config["layer_norm_eps"]),
        "gated": config["use_swiglu_ffn"],
        "antialias": kind == "dinov2_with_registers",
    }


def _of_other_type(path, kind, name):
    fitting = [own for own, kinds in MODEL_TYPES.items() if kind in kinds]
    advice = f"set config.model.backbone.name to {fitting[0]!r}" if fitting else ""
    expected = " or ".join(map(repr, MODEL_TYPES[name]))
    return (
        f"{path}: its model_type is {kind!r}, but config.model.backbone.name is "
        f"{name!r}, which needs {expected}; " + (advice or _advice_of(kind, name))
    )


def _advice_of(kind, name):
    if kind is None:
        return f'if it is one, add "model_type": "{MODEL_TYPES[name][0]}" to the file'
    return "choose the weights of such a model"


def _check(config: Mapping[str, Any], path: epath.Path) -> None:
    allowed = {
        "num_channels": (3,),
        "qkv_bias": (True,),
        "use_swiglu_ffn": (False, True),
    }
    for option, values in allowed.items():
        if config[option] not in values:
            raise InputError(
                f"{path}: {option} is {short(config[option])}, which is not supported; "
                f"expected {' or '.join(map(repr, values))}"
            )
    for option, least in _LEAST.items():
        value = config[option]
        most = _MOST_LAYERS if option == "num_hidden_layers" else _MOST
        if not isinstance(value, int) or not least <= value <= most:
            raise InputError(
                f"{path}: {option} is {short(value)}; expected a whole number from "
                f"{least} to {most}; download it again"
            )
    for option, (kind, expected) in _KINDS.items():
        value = config[option]
        is_bounded = isinstance(value, str) or (
            isinstance(value, kind) and abs(value) < _MOST
        )
        if not isinstance(value, kind) or not is_bounded:
            raise InputError(
                f"{path}: {option} is {short(value)}; expected {expected}; download "
                "it again"
            )


def load(name: str, weights: str, sizes: VisionSizes, *, pooled: bool) -> dict:
    """Reads the weights of a vision transformer; code in a file is never run.

    Args:
      name: one of `backbones.FAMILIES`.
      weights: see `pretrained_folder.read`. The model may be whole, with a text tower.
      sizes: of the backbone.
      pooled: whether to include the layers of the pooled feature.

    Returns:
      Variables of `create_backbone(name, sizes, pooled=pooled)`: nested dicts of
      float32 numpy arrays under `params`.

    Raises:
      InputError: if the weights cannot be read, or if a parameter is missing,
        unexpected or mis-shaped.
    """
    arrays = pretrained_folder.read(weights).arrays
    return convert(name, arrays, sizes, weights, pooled=pooled)


def convert(
    name: str,
    arrays: Mapping[str, np.ndarray],
    sizes: VisionSizes,
    path: str,
    *,
    pooled: bool,
) -> dict:
    """Converts parameters by Hugging Face's names; see `load`.

    Args:
      name: one of `backbones.FAMILIES`.
      arrays: parameters by name.
      sizes: of the backbone.
      path: of the weights, for messages.
      pooled: see `load`.

    Raises:
      InputError: if a parameter is missing, unexpected or mis-shaped.
    """
    for prefix in _PREFIXES:
        arrays = {key.removeprefix(prefix): array for key, array in arrays.items()}
    module = backbones.create_backbone(name, sizes, pooled=pooled)
    side = max(sizes.image_size, sizes.patch)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    shapes = towers.shapes_of(module, image)
    table = tower_names.vision_names(name, gated=sizes.gated)
    names = {ours: tower_names.their_name(ours, table) for ours in shapes}
    unused = _UNUSED if pooled else rf"{_UNUSED}|head\..*"
    found = {
        key: array
        for key, array in towers.prepared(arrays).items()
        if not re.fullmatch(unused, key) and np.size(array)  # no registers
    }
    reason = f"{path}: not the weights of {name} with the sizes of its config.json"
    return {"params": towers.convert(found, names, shapes, reason)}
