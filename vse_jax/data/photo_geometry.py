"""How a photo becomes a square: the options, as a value."""

from typing import NamedTuple

import ml_collections

# Names of the filters in TensorFlow.
INTERPOLATIONS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos": "lanczos3",
    "opencv": "triangle",
}
FITS = ("crop", "crop_floor", "stretch")


class Geometry(NamedTuple):
    """How a photo becomes a square, besides random crops.

    Attributes:
      size: height and width of the square in pixels; 0 if photos are not resized.
      shorter: shorter side in pixels before a crop, at least `size`; 0 to stretch the
        whole photo to the square.
      interpolation: one of `INTERPOLATIONS`.
      rounds_down: whether a central crop that would begin between two pixels begins at
        the first, as in Hugging Face's image processors. Else it rounds half to even,
        as in torchvision.
    """

    size: int
    shorter: int
    interpolation: str = "bilinear"
    rounds_down: bool = False


def geometry_of(data: ml_collections.ConfigDict) -> Geometry:
    """Returns the geometry that `config.data` describes."""
    size, interpolation = data.image_size, data.interpolation or "bilinear"
    if data.fit == "stretch":
        return Geometry(size, 0, interpolation)
    shorter = data.resize or round(size * 256 / 224)
    return Geometry(size, shorter, interpolation, data.fit == "crop_floor")
