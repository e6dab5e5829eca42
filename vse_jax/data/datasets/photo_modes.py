"""Converts photos of every mode of PIL to RGB of 8 bits."""

import functools

import numpy as np
from PIL import Image, ImageCms

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF's tags
_WHITE_IS_ZERO = 0
_SIXTEEN_BITS = ("PNG", "PPM")  # formats in which PIL's mode I has 16 bits


class ModeError(Exception):
    """Raised for a photo whose values have an unknown range; gives their range."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a photo as RGB of 8 bits; transparent pixels become white.

    Gray values of 16 bits are scaled by 255/65535, and those of 9 to 15 bits (TIFF) by
    255 over their maximum. Values of 32 bits, floating-point or integer, are scaled by
    255 if all are in [0, 1].

    Args:
      image: a photo of any mode, as opened by PIL.

    Raises:
      ModeError: if values of 32 bits are outside of [0, 1].
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _deep_to_gray(image).convert("RGB")
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb())
    if image.mode == "La":  # PIL converts La only to LA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_to_gray(image: Image.Image) -> Image.Image:
    image.load()
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        levels = np.rint(255 * _checked(values, image.mode).astype(np.float32))
    else:
        maximum = 2 ** _bits(image) - 1
        levels = np.rint(values.clip(0, maximum).astype(np.float32) * (255 / maximum))
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:  # PIL does not invert these modes
        levels = 255 - levels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels = np.where(values == transparent, 255, levels)
    return Image.fromarray(levels.astype(np.uint8))


def _checked(values: np.ndarray, mode: str) -> np.ndarray:
    kind = "floating-point" if mode == "F" else "integer"
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ModeError(f"it has {kind} values of 32 bits that are not finite")
    if low < 0 or high > 1:
        raise ModeError(
            f"it has {kind} values of 32 bits from {low:.6g} to {high:.6g}; expected "
            "0 to 1; scale them, or save the photo with 8 or 16 bits"
        )
    return values


def _bits(image: Image.Image) -> int:
    bits = _tag(image, _BITS_PER_SAMPLE)
    return bits if isinstance(bits, int) and 8 < bits < 16 else 16


def _tag(image: Image.Image, number: int) -> int | None:
    """Returns the value of a TIFF tag; None for other formats."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


@functools.cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
