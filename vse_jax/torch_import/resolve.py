"""Completes a configuration by what pretrained weights say about themselves."""

from typing import Any

import ml_collections

from vse_jax import run_config
from vse_jax.errors import InputError
from vse_jax.models.backbones import FAMILIES
from vse_jax.models.text_encoders.transformer import TOWERS
from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.sizes import Sizes
from vse_jax.torch_import import preprocessor, text_weights, vision_weights

# The options that name the weights of a tower.
_VISION = ("backbone.name", "backbone.weights")
_TEXT = ("text_encoder", "text_weights")
# Options that `preprocessor_config.json` sets.
_GEOMETRY = ("image_size", "resize", "fit", "interpolation")
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


def resolved(
    config: ml_collections.ConfigDict, run: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
    """Returns a copy with the sizes and the preprocessing of the weights.

    Transformers get the sizes of their `config.json`. Photos get the size, crop
    and interpolation of its `preprocessor_config.json`, unless the options are set.

    Args:
      config: see `configs/common.py`.
      run: description of the run to resume. If it began with the same weights, their
        sizes are taken from it, and the weights may be gone. None for a new run.

    Raises:
      InputError: if the weights are of another model, or if an option contradicts them.
    """
    config = config.copy_and_resolve_references()
    if config.model.backbone.name in FAMILIES:
        if saved := _same_weights(run, config, _VISION):
            _complete(config.model.backbone.tower, saved.model.backbone.tower)
            _complete(config.data, {name: saved.data[name] for name in _GEOMETRY})
        else:
            _read_vision(config)
    if config.model.text_encoder in TOWERS:
        if saved := _same_weights(run, config, _TEXT):
            _complete(config.model.text_tower, saved.model.text_tower)
        else:
            _read_text(config)
    return config


def began_with_text_weights(
    run: dict[str, Any] | None, config: ml_collections.ConfigDict
) -> bool:
    """Returns whether a run began with the text weights of a configuration.

    Args:
      run: description of the run; None for a new run.
      config: see `configs/common.py`.
    """
    return _same_weights(run, config, _TEXT) is not None


def _same_weights(run, config, options):
    """Returns the configuration of a run if it began with the weights of `config`.

    Two `options` in `config.model` name the architecture and the weights.
    """
    if run is None:
        return None
    saved = run_config.from_json(run["config"])
    own, of_run = (
        [run_config.value_of(one.model, name) for name in options]
        for one in (config, saved)
    )
    return saved if own[-1] and own == of_run else None


def _complete(options, known):
    """Sets options that are not set."""
    for name, value in known.items():
        options[name] = options[name] or value


def _read_text(config):
    """Completes the text transformer by its weights, if there are any."""
    encoder, weights = config.model.text_encoder, config.model.text_weights
    options = config.model.text_tower
    if weights:
        found = text_weights.read_sizes(encoder, weights)
        _fill(options, found, "model.text_tower")
    else:
        required = [
            name for name in Sizes._fields if name not in text_weights.MAY_BE_ZERO
        ]
        _check_given("model.text_tower", "model.text_weights", required, config)
    text_weights.check_sizes(options)


def _read_vision(config):
    """Completes the vision transformer by its weights, if there are any."""
    backbone = config.model.backbone
    sizes = backbone.tower
    if backbone.weights:
        found = vision_weights.read_sizes(backbone.name, backbone.weights)
        _fill(sizes, found, "model.backbone.tower")
    _check_given("model.backbone.tower", "model.backbone.weights", _REQUIRED, config)
    _check_sizes(sizes)
    photo = preprocessor.read(backbone.name, backbone.weights, sizes.image_size)
    sizes.mean = sizes.mean or photo.mean
    sizes.deviation = sizes.deviation or photo.deviation
    _set_geometry(config.data, photo)


def _check_given(tower, weights, required, config):
    """Checks that all sizes are set; `tower` and `weights` are names of options."""
    sizes = run_config.value_of(config, tower)
    missing = next((name for name in required if not sizes[name]), None)
    if missing:
        raise InputError(
            f"config.{tower}.{missing} is {sizes[missing]!r}, and config.{weights} is "
            f"{run_config.value_of(config, weights)!r}; set config.{weights} to a "
            "folder with weights, or set all sizes"
        )


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
