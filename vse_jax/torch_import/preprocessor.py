"""Reads how a pretrained model takes photos: `preprocessor_config.json`."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from vse_jax.errors import InputError
from vse_jax.excerpts import short
from vse_jax.torch_import import pretrained_folder

_FILE = "preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"  # of recent versions: with the tokenizer's
_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "do_center_crop": True,
}
_SIGLIP = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "do_center_crop": False}
_DINOV2 = {
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
    "do_center_crop": True,
    "size": {"shortest_edge": 256},
    "crop_size": 224,
}
# What a file leaves out. Sizes are otherwise those of the pretraining's images.
_DEFAULTS = {"clip_vision": _CLIP, "siglip_vision": _SIGLIP, "dinov2": _DINOV2}
_INTERPOLATIONS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_BICUBIC = 3
# Classes of processors that do what is done here, without their usual endings.
_CLASSES = {
    "clip_vision": ("CLIP", "Bit"),
    "siglip_vision": ("Siglip",),
    "dinov2": ("Bit", "CLIP"),
}
_CLASS_OPTIONS = ("image_processor_type", "feature_extractor_type")
_ENDINGS = re.compile(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?")
_FLAGS = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_center_crop",
    "do_pad",
    "use_square_size",
)
_STEPS = ("do_resize", "do_rescale", "do_normalize")
_LARGEST = 1e6  # mean or deviation of pixels from 0 to 1
_RESCALE_FACTOR = 1 / 255


class Preprocessing(NamedTuple):
    """How a photo becomes the input of a vision transformer.

    Attributes:
      image_size: height and width in pixels.
      resize: shorter side in pixels before the crop; 0 without a crop.
      fit: `crop_floor` or `stretch`, see `config.data.fit`.
      interpolation: one of `photo_geometry.INTERPOLATIONS`.
      mean, std: of RGB, for pixels from 0 to 1.
    """

    image_size: int
    resize: int
    fit: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(name: str, weights: str, image_size: int) -> Preprocessing:
    """Reads the preprocessing of a pretrained model.

    Args:
      name: one of `backbones.FAMILIES`.
      weights: see `pretrained_folder.read`; "" for the family's defaults.
      image_size: height and width in pixels of the pretraining's images.

    Raises:
      InputError: if the file is damaged, or asks for something that is not supported.
    """
    path, options = _FILE, {}
    if weights:
        folder = pretrained_folder.find(weights)
        path, options = _read_file(folder)
    given = {key: value for key, value in options.items() if value is not None}
    options = _DEFAULTS[name] | given
    _check_class(options, name, path)
    _check_flags(options, path)
    _check_values(options, path)
    resample = options.get("resample", _BICUBIC)
    if not isinstance(resample, int) or resample not in _INTERPOLATIONS:
        raise InputError(
            f"{path}: resample is {short(resample)}; expected one of "
            f"{', '.join(map(str, _INTERPOLATIONS))} (PIL's numbers)"
        )
    square, shorter = _geometry(options, name, image_size, path)
    return Preprocessing(
        square,
        shorter,
        "crop_floor" if shorter else "stretch",
        _INTERPOLATIONS[resample],
        _channels(options, "image_mean", path),
        _channels(options, "image_std", path, positive=True),
    )


def _check_class(options, name, path):
    """Checks that the class of the processor is one whose steps are known."""
    option = next((one for one in _CLASS_OPTIONS if one in options), None)
    if option is None:
        return
    kind, known = options[option], _CLASSES[name]
    is_known = isinstance(kind, str) and any(
        kind.startswith(start) and _ENDINGS.fullmatch(kind.removeprefix(start))
        for start in known
    )
    if not is_known:
        expected = " or ".join(f"{start}ImageProcessor" for start in known)
        raise InputError(
            f"{path}: its {option} is {short(kind)}, whose steps are not those of "
            f"{name}; expected {expected}; choose other weights"
        )


def _check_flags(options, path):
    """Checks flags, and that no step is asked for that is unknown here."""
    for flag in _FLAGS:
        if not isinstance(options.get(flag, False), bool):
            raise InputError(
                f"{path}: {flag} is {short(options[flag])}; expected true or false"
            )
    asked = "use_square_size" if options.get("use_square_size") else ""
    if options.get("do_pad") and "pad_size" in options:
        asked = "do_pad with pad_size"
    if asked:
        raise InputError(
            f"{path}: asks for {asked}, which is not supported; choose other weights, "
            "or remove the option if the weights were trained without it"
        )


def _check_values(options, path):
    """Checks that the values of pixels become those that the model expects."""
    for step in _STEPS:
        if not options.get(step, True):
            raise InputError(
                f"{path}: {step} is false, which is not supported; expected true, or "
                "no such option"
            )
    factor = options.get("rescale_factor", _RESCALE_FACTOR)
    least, most = _RESCALE_FACTOR - 1e-6, _RESCALE_FACTOR + 1e-6
    if not isinstance(factor, int | float) or not least < factor < most:
        raise InputError(f"{path}: rescale_factor is {short(factor)}; expected 1 / 255")


def _geometry(options, name, image_size, path):
    """Returns the side of the square, and the shorter side before a crop, or 0."""
    size = options.get("size", image_size)
    if isinstance(size, dict):
        size = {key: side for key, side in size.items() if side is not None}
        if set(size) not in ({"shortest_edge"}, {"height", "width"}):
            raise InputError(
                f"{path}: size is {short(size)}, which is not supported; expected one "
                'number, {"shortest_edge": ...} or {"height": ..., "width": ...}'
            )
    crops = options["do_center_crop"]
    shorter = _shorter(size, name, crops)
    side = _side(size if shorter is None else shorter, "size", path)
    square = side
    if crops:
        square = _side(options.get("crop_size", image_size), "crop_size", path)
    if shorter is None:
        if side != square:
            raise InputError(
                f"{path}: photos are stretched to size, {side}, and cropped to "
                f"crop_size, {square}, which is not supported; expected equal numbers, "
                'or {"shortest_edge": ...} as size'
            )
        return side, 0
    if not crops:
        raise InputError(
            f"{path}: size is the shorter side, {side}, and do_center_crop is "
            "false, so that photos would not be square; set do_center_crop to true, or "
            'size to {"height": ..., "width": ...}'
        )
    if side < square:
        raise InputError(
            f"{path}: size is {side}, which is less than crop_size, {square}"
        )
    return square, side


def _read_file(folder: epath.Path) -> tuple[epath.Path, Mapping[str, Any]]:
    """Returns the file of the options and the options; the recent file goes first."""
    path = folder / _PROCESSOR_FILE
    nested = _nested(path) if path.exists() else {}
    if nested:
        return path, nested
    path = folder / _FILE
    return path, pretrained_folder.read_json(path) if path.exists() else {}


def _nested(path):
    """Returns the options of photos in the file of all of a model's processors."""
    options = pretrained_folder.read_json(path).get("image_processor")
    if options is not None and not isinstance(options, dict):
        raise InputError(
            f"{path}: its image_processor is {short(options)}; expected a JSON object; "
            "download it again"
        )
    return options or {}


def _shorter(size, name, crops):
    """Returns the shorter side that a size names; None for height and width."""
    if isinstance(size, dict):
        return size.get("shortest_edge")
    # The first files of CLIP have one number. That of SigLIP is a square's.
    return size if crops or name != "siglip_vision" else None


def _side(size, option, path):
    if isinstance(size, dict):
        height, width = size.get("height"), size.get("width")
        size = height if height == width else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(
            f"{path}: {option} is not the side of a square; expected one number, or an "
            "equal height and width"
        )
    return size


def _channels(options, option, path, *, positive=False):
    values = options[option]
    are_numbers = (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(v, int | float) and abs(v) < _LARGEST for v in values)
    )
    if not are_numbers or (positive and min(values) <= 0):
        expected = "three numbers above 0" if positive else "three numbers"
        raise InputError(f"{path}: {option} is {short(values)}; expected {expected}")
    return tuple(map(float, values))
