"""Photos as people have them, and the form in which datasets store them.

A stored photo is upright, RGB, and a JPEG or PNG that TensorFlow decodes.
"""

import io
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from vse_jax.errors import one_line

_QUALITY = 95  # of the JPEGs that are made of photos that cannot be stored as they are
_MAXIMUM_PIXELS = 100_000_000  # a small file may claim any size, to fill the memory
_ORIENTATION, _UPRIGHT = 0x0112, 1  # EXIF's tag, and its value for upright photos
_PNG_BIT_DEPTH = 24  # its place in the file

# We refuse such photos ourselves.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PhotoError(Exception):
    """A photo that cannot be decoded; says why, but not which."""


def to_stored(content: bytes) -> bytes:
    """Returns a photo in the form in which it is stored, once wholly decoded.

    A plain photo (JPEG or PNG; RGB of 8 bits; upright) stays as it is. Others (grey,
    CMYK, palette, alpha, 16 bits, to be rotated by EXIF, any other format, and those
    that PIL can decode but TensorFlow cannot) become RGB as JPEG; what is transparent
    becomes white.

    Args:
      content: of the file.

    Raises:
      PhotoError: the photo is damaged or truncated, of an unknown format, or larger
        than any that we would hold in memory.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_size(image)
            upright = _is_upright(image)
            if upright and _is_plain(image, content) and _is_read_by_tf(content):
                return content
            return _encode(_to_rgb(image if upright else _turn(image)))
    except PhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise PhotoError("it is no image of a known format") from None
    except Exception as error:  # damaged files make PIL raise any error
        raise PhotoError(one_line(error)) from error


def _check_size(image: Image.Image) -> None:
    """Refuses by the header alone, before memory is taken for the pixels."""
    if image.width * image.height > _MAXIMUM_PIXELS:
        raise PhotoError(
            f"it has {image.width}x{image.height} pixels; expected at most "
            f"{_MAXIMUM_PIXELS}"
        )


def _is_upright(image: Image.Image) -> bool:
    try:
        orientation = image.getexif().get(_ORIENTATION, _UPRIGHT)
    except Exception:  # damaged EXIF does no harm to the pixels
        return True
    return orientation not in range(2, 9)


def _is_plain(image: Image.Image, content: bytes) -> bool:
    if image.mode != "RGB" or image.has_transparency_data:
        return False
    if image.format == "PNG":
        return content[_PNG_BIT_DEPTH] == 8
    return image.format == "JPEG"


def _is_read_by_tf(content: bytes) -> bool:
    """Decodes the photo as the input pipeline will, which is stricter than PIL."""
    try:
        tf.io.decode_image(content, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _turn(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(
            Image.new("RGBA", image.size, "white"), image
        ).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits, which PIL would cut off at 255
        high_bytes = np.asarray(image).clip(0, 2**16 - 1) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    return image.convert("RGB")


def _encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
