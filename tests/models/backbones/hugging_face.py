"""Small vision transformers of Hugging Face with random parameters, in folders."""

import json
import pathlib

import numpy as np
import pytest
import torch

from vse_jax.models.backbones import VisionSizes
from vse_jax.torch_import import preprocessor, vision_weights

# Their import takes seconds.
transformers = pytest.importorskip("transformers")

_COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_CLIP = _COMMON | {"intermediate_size": 48, "image_size": 32, "patch_size": 8}
_DINOV2 = _COMMON | {"mlp_ratio": 2, "image_size": 28, "patch_size": 7}
# Kinds of models, of which some are one family: our name, model, configuration.
KINDS = {
    "clip": ("clip_vision", "CLIPVision", _CLIP),
    "siglip": ("siglip_vision", "SiglipVision", _CLIP),
    "dinov2": ("dinov2", "Dinov2", _DINOV2),
    "registers": (
        "dinov2",
        "Dinov2WithRegisters",
        _DINOV2 | {"num_register_tokens": 3, "use_swiglu_ffn": True},  # as its giant
    ),
}
NAMES = {kind: name for kind, (name, _, _) in KINDS.items()}


def create(kind: str, seed: int = 0, **options):
    """Returns a model with parameters that all matter."""
    _, name, sizes = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**(sizes | options))
    model = getattr(transformers, f"{name}Model")(config)
    return randomize(model, seed).eval()


def randomize(model, seed: int = 0):
    """Draws all parameters, also those that start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.15
        parameter.data = drawn + 0.5 if parameter.ndim == 1 else drawn
    return model


def save(model, folder: pathlib.Path, **preprocessing) -> str:
    """Saves a model, and its `preprocessor_config.json` if there are options."""
    model.save_pretrained(folder)
    if preprocessing:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(preprocessing))
    return str(folder)


def sizes_of(kind: str, folder: str) -> VisionSizes:
    """Returns the sizes of a saved model."""
    name = NAMES[kind]
    sizes = vision_weights.read_sizes(name, folder)
    photo = preprocessor.read(name, folder, sizes["image_size"])
    return VisionSizes(**sizes, mean=photo.mean, std=photo.std)


def run(kind: str, model, image: np.ndarray, sizes: VisionSizes, *, pooled: bool):
    """Returns the regions or the pooled feature of uint8 images, as a tensor."""
    pixels = (image / 255 - np.array(sizes.mean)) / np.array(sizes.std)
    pixels = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
    interpolated = {}
    if NAMES[kind] != "dinov2":  # which always interpolates
        interpolated = {"interpolate_pos_encoding": True}
    output = model(pixels, **interpolated)
    if pooled:
        return output.pooler_output
    items = output.last_hidden_state
    if kind == "clip":  # its code normalizes the class token only
        return model.post_layernorm(items)[:, 1:]
    first = 0 if kind == "siglip" else 1 + sizes.registers
    return items[:, first:]


def leaves(tree: dict, path: tuple[str, ...] = ()):
    """Yields the paths and the arrays of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value
