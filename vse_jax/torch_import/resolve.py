"""Completes a configuration by what pretrained weights say about themselves."""

import ml_collections

from vse_jax.errors import InputError
from vse_jax.models.backbones import FAMILIES
from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.torch_import import preprocessor, text_weights, vision_weights

_REQUIRED = (
    "dim",
    "layers",
    "heads",
    "mlp_dim",
    "patch",
    "image_size",
    "activation",
    "epsilon",
)


def resolved(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy with the sizes and the preprocessing of the weights.

    Transformers get the sizes of their `config.json`. Photos get the size, crop
    and interpolation of its `preprocessor_config.json`, unless the options are set.

    Raises:
      InputError: if the weights are of another model, or if an option contradicts them.
    """
    config = config.copy_and_resolve_references()
    if config.model.backbone.name in FAMILIES:
        _resolve_vision(config)
    text_weights.resolve(config)
    return config


def _resolve_vision(config):
    backbone = config.model.backbone
    sizes = backbone.tower
    if backbone.weights:
        found = vision_weights.read_sizes(backbone.name, backbone.weights)
        _fill(sizes, found, "model.backbone.tower")
    missing = next((name for name in _REQUIRED if not sizes[name]), None)
    if missing:
        raise InputError(
            f"config.model.backbone.tower.{missing} is {sizes[missing]!r}, and "
            f"config.model.backbone.weights is empty; set it to a folder with weights "
            f"of {backbone.name}, or set all sizes"
        )
    _check_sizes(sizes)
    photo = preprocessor.read(backbone.name, backbone.weights, sizes.image_size)
    sizes.mean = sizes.mean or photo.mean
    sizes.deviation = sizes.deviation or photo.deviation
    _set_geometry(config.data, photo)


def _check_sizes(sizes):
    name = "config.model.backbone.tower"
    if sizes.dim % sizes.heads:
        raise InputError(
            f"{name}.heads is {sizes.heads}, which does not divide {name}.dim, "
            f"{sizes.dim}"
        )
    if sizes.image_size < sizes.patch:
        raise InputError(
            f"{name}.image_size is {sizes.image_size}, which is less than a patch, "
            f"{name}.patch, of {sizes.patch} pixels"
        )
    if sizes.activation not in ACTIVATIONS:
        raise InputError(
            f"{name}.activation is {sizes.activation!r}, which is not supported; "
            f"expected {' or '.join(map(repr, ACTIVATIONS))}"
        )


def _fill(options, found, name):
    """Sets options that are not set; the others must be those of the weights."""
    for key, value in found.items():
        if options[key] and options[key] != value:
            raise InputError(
                f"config.{name}.{key} is {options[key]!r}, but it is {value!r} in the "
                "weights; leave it out"
            )
        options[key] = value


def _set_geometry(data, photo):
    """Sets how photos are resized, where the options do not say so."""
    data.interpolation = data.interpolation or photo.interpolation
    data.fit = data.fit or photo.fit
    if data.builder == "shapes":
        return  # its photos have one size
    data.image_size = data.image_size or photo.image_size
    if data.fit == "crop" and not data.resize:
        side = photo.resize or photo.image_size
        data.resize = round(side * data.image_size / photo.image_size)
