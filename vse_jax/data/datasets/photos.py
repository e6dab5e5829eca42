"""Photos as people have them, and the form in which datasets store them.

A stored photo is upright, RGB, and a JPEG or PNG that TensorFlow decodes.
"""

import contextlib
import io
import threading
from collections.abc import Iterator

import tensorflow as tf
from PIL import Image

from vse_jax.data.datasets import photo_formats, photo_modes
from vse_jax.errors import one_line

MAXIMUM_PIXELS = 100_000_000  # a small file may claim any size, to fill the memory
_QUALITY = 95  # of the JPEGs that are made of photos that cannot be stored as they are
_ORIENTATION = 0x0112  # EXIF's tag
_PNG_BIT_DEPTH = 24  # its place in the file
_LARGE = 25_000_000  # pixels of photos that are decoded one at a time
_one_large_photo = threading.Lock()
# Which side of what is stored is the top and which the left: EXIF 2.3, 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(Exception):
    """A photo that cannot be decoded; says why, but not which."""


def to_stored(content: bytes, maximum_pixels: int = MAXIMUM_PIXELS) -> bytes:
    """Returns a photo in the form in which it is stored, once wholly decoded.

    A plain photo (JPEG or PNG; RGB of 8 bits; upright) stays as it is. Others (grey,
    CMYK, palette, alpha, 16 bits, to be rotated by EXIF, any other format, and those
    that PIL can decode but TensorFlow cannot) become RGB as JPEG; see
    `photo_modes.to_rgb`. Of several frames the first is decoded alone.

    Args:
      content: of the file, in one of `photo_formats.FORMATS`.
      maximum_pixels: width times height; larger photos are refused by their header.

    Raises:
      PhotoError: the photo is damaged or truncated, of another format, larger than
        `maximum_pixels`, or of 32 bits with values outside of 0 to 1.
    """
    try:
        _check_size(photo_formats.webp_size(content), maximum_pixels)
        formats = photo_formats.available()
        with Image.open(io.BytesIO(content), formats=formats) as image:
            _check_size(image.size, maximum_pixels)
            is_large = image.width * image.height > _LARGE
            with _one_large_photo if is_large else contextlib.nullcontext():
                return _stored(image, content)
    except PhotoError:
        raise
    except Image.UnidentifiedImageError:
        raise PhotoError(photo_formats.describe(content)) from None
    except Exception as error:  # damaged files make PIL raise any error
        raise PhotoError(one_line(error)) from error


@contextlib.contextmanager
def own_limit() -> Iterator[None]:
    """Turns off PIL's own limit of pixels, of which `maximum_pixels` takes the place.

    The limit is one of the whole process, which is why `to_stored` leaves it alone.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(size: tuple[int, int] | None, maximum_pixels: int) -> None:
    """Refuses by the header alone, before memory is taken for the pixels."""
    if size is not None and size[0] * size[1] > maximum_pixels:
        raise PhotoError(
            f"it has {size[0]}x{size[1]} pixels; expected at most {maximum_pixels}, as "
            "config.data.maximum_pixels says"
        )


def _stored(image: Image.Image, content: bytes) -> bytes:
    orientation = _orientation(image)
    if orientation is None and _is_plain(image, content) and _is_read_by_tf(content):
        return content
    image.load()
    orientation = _orientation(image)  # again: PIL turns a TIFF as it loads it
    rgb = photo_modes.to_rgb(image)
    return _encode(rgb if orientation is None else rgb.transpose(_TURNS[orientation]))


def _orientation(image: Image.Image) -> int | None:
    """Returns EXIF's orientation; None if the photo is upright."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF does no harm to the pixels
        return None
    return orientation if orientation in _TURNS else None


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


def _encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
