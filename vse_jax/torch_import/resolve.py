"""Completes a configuration by what pretrained weights say about themselves."""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from vse_jax import run_config
from vse_jax.errors import InputError
from vse_jax.models.backbones import FAMILIES, VisionSizes
from vse_jax.models.text_encoders.transformer import TOWERS
from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import preprocessor, text_weights, vision_weights

# The options that name the weights of a tower.
_VISION = ("backbone.name", "backbone.weights")
_TEXT = ("text_encoder", "text_weights")
# Options that `preprocessor_config.json` sets.
_GEOMETRY = ("image_size", "resize", "fit", "interpolation")
_TEXT_TOWER, _VISION_TOWER = "model.text_tower", "model.backbone.tower"
_MAY_BE_ZERO = {"vocabulary_size", "padding", "registers"}
_HAVE_DEFAULTS = {"gated", "mean", "std", "antialias"}


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
    saved = _config_of(run)
    if config.model.backbone.name in FAMILIES:
        if _have_same_weights(config, saved, _VISION):
            _complete(config.model.backbone.tower, saved.model.backbone.tower)
            _complete(config.data, {name: saved.data[name] for name in _GEOMETRY})
        else:
            _read_vision(config)
    if config.model.text_encoder in TOWERS:
        if _have_same_weights(config, saved, _TEXT):
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
    return _have_same_weights(config, _config_of(run), _TEXT)


def _config_of(run):
    return run and run_config.from_json(run["config"])


def _have_same_weights(config, saved, options):
    """Returns whether the configuration of a run, or None, has the same weights.

    Two `options` in `config.model` name the architecture and the weights.
    """
    if saved is None:
        return False
    own, of_run = (
        [run_config.value_of(one.model, name) for name in options]
        for one in (config, saved)
    )
    return bool(own[-1]) and own == of_run


def _complete(options, known):
    """Sets options that are not set."""
    for name, value in known.items():
        options[name] = options[name] or value


def _read_text(config):
    """Completes the text transformer by its weights, if there are any."""
    encoder, weights = config.model.text_encoder, config.model.text_weights
    if weights:
        found = text_weights.read_sizes(encoder, weights)
        _fill(config.model.text_tower, found, _TEXT_TOWER)
    else:
        _check_given(config, TextSizes._fields, _TEXT_TOWER, "model.text_weights")
    check_sizes(config.model.text_tower, _TEXT_TOWER, weights)


def _read_vision(config):
    """Completes the vision transformer by its weights, if there are any."""
    backbone, sizes = config.model.backbone, config.model.backbone.tower
    if backbone.weights:
        found = vision_weights.read_sizes(backbone.name, backbone.weights)
        _fill(sizes, found, _VISION_TOWER)
    else:
        fields = VisionSizes._fields
        _check_given(config, fields, _VISION_TOWER, "model.backbone.weights")
    check_sizes(sizes, _VISION_TOWER, backbone.weights)
    if sizes.image_size < sizes.patch:
        raise InputError(
            f"config.{_VISION_TOWER}.image_size is {sizes.image_size}, which is less "
            f"than a patch, config.{_VISION_TOWER}.patch, of {sizes.patch} pixels"
        )
    photo = preprocessor.read(backbone.name, backbone.weights, sizes.image_size)
    sizes.mean = sizes.mean or photo.mean
    sizes.std = sizes.std or photo.std
    _check_channels(sizes)
    _set_geometry(config.data, photo)


def _check_channels(sizes):
    """Checks what the options say about the pixels; those of a file are checked."""
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        values = sizes[name]
        are_numbers = all(
            isinstance(value, int | float) and least < value < math.inf
            for value in values
        )
        if len(values) != 3 or not are_numbers:
            above = " above 0" if name == "std" else ""
            raise InputError(
                f"config.{_VISION_TOWER}.{name} is {values!r}; expected three numbers"
                f"{above}, of RGB; leave it out to take those of the weights"
            )


def _check_given(config, fields, tower, weights):
    """Checks that all sizes are set; `tower` and `weights` are names of options."""
    sizes = run_config.value_of(config, tower)
    for name in fields:
        if not sizes[name] and name not in _MAY_BE_ZERO | _HAVE_DEFAULTS:
            raise InputError(
                f"config.{tower}.{name} is {sizes[name]!r}, and config.{weights} is "
                f"''; set config.{weights} to a folder with weights, or set all sizes"
            )


def check_sizes(sizes: Mapping[str, Any], tower: str, weights: str) -> None:
    """Checks the sizes of a transformer.

    Args:
      sizes: of the transformer.
      tower: name of the group of their options.
      weights: folder or file that they are from, for messages; or "".

    Raises:
      InputError: if a size is impossible.
    """
    options = f"config.{tower}."
    where = f"{weights}: {options}" if weights else options
    for name, value in sizes.items():
        if name in _HAVE_DEFAULTS:
            continue
        if name == "activation":
            is_right = value in ACTIVATIONS
            expected = f"one of {', '.join(ACTIVATIONS)}"
        elif name == "epsilon":
            is_right, expected = 0 < value < 1, "a number between 0 and 1"
        else:
            at_least = 0 if name in _MAY_BE_ZERO else 1
            is_right, expected = value >= at_least, f"a number of at least {at_least}"
        if not is_right:
            raise InputError(f"{where}{name} is {value!r}; expected {expected}")
    if sizes["dim"] % sizes["heads"]:
        raise InputError(
            f"{where}dim is {sizes['dim']}; expected a multiple of {options}heads, "
            f"which is {sizes['heads']}"
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
    if data.fit != "stretch" and not data.resize:
        side = photo.resize or photo.image_size
        data.resize = round(side * data.image_size / photo.image_size)
