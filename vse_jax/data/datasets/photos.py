"""Converts photos of all kinds to the form in which datasets store them.

A stored photo is upright, RGB, and a JPEG or PNG that TensorFlow can decode.
"""

import contextlib
import io
import threading
from collections.abc import Iterator

import tensorflow as tf
from PIL import Image

from vse_jax.data.datasets import photo_formats, photo_modes
from vse_jax.errors import one_line

MAXIMUM_PIXELS = 100_000_000  # limits decompression bombs
_QUALITY = 95  # of the JPEGs that replace photos that cannot be stored unchanged
_ORIENTATION = 0x0112  # EXIF tag
_PNG_BIT_DEPTH = 24  # offset in the file
_LARGE = 25_000_000  # pixels; larger photos are decoded one at a time
_one_large_photo = threading.Lock()
# From the stored to the upright photo, by EXIF's orientation (EXIF 2.3, 4.6.4).
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
    """Raised for a photo that cannot be decoded; gives the reason but no path."""


def to_stored(content: bytes, maximum_pixels: int = MAXIMUM_PIXELS) -> bytes:
    """Decodes a photo completely and returns it in the form in which it is stored.

    A plain photo (JPEG or PNG, RGB of 8 bits, upright) is returned unchanged. All
    others are converted to RGB and encoded as JPEG; see `photo_modes.to_rgb`. These
    are gray, CMYK, palette, alpha and 16-bit photos, photos that EXIF rotates, other
    formats, and photos that PIL can decode but TensorFlow cannot. Of several frames
    only the first is decoded.

    Args:
      content: content of the file, in one of `photo_formats.FORMATS`.
      maximum_pixels: maximum of width times height. Larger photos are rejected by
        their header.

    Raises:
      PhotoError: if the photo is damaged or truncated, has another format, is larger
        than `maximum_pixels`, or has values of 32 bits outside of [0, 1].
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
    except Exception as error:  # PIL may raise any error for damaged files
        raise PhotoError(one_line(error)) from error


@contextlib.contextmanager
def own_limit() -> Iterator[None]:
    """Disables PIL's limit of pixels, which `maximum_pixels` replaces.

    PIL's limit applies to the whole process, so `to_stored` does not change it.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(size: tuple[int, int] | None, maximum_pixels: int) -> None:
    """Raises PhotoError from the header, before memory for pixels is allocated."""
    if size is not None and size[0] * size[1] > maximum_pixels:
        raise PhotoError(
            f"it has {size[0]}x{size[1]} pixels; expected at most {maximum_pixels} "
            "(config.data.maximum_pixels)"
        )


def _stored(image: Image.Image, content: bytes) -> bytes:
    is_upright = _orientation(image) is None
    if is_upright and _is_plain(image, content) and _is_read_by_tf(content):
        return content
    return _encode(upright_rgb(image))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decodes a photo that PIL opened; returns it upright, as RGB of 8 bits.

    Raises:
      Exception: any, if the photo is damaged or has values of another range.
    """
    image.load()
    orientation = _orientation(image)  # only now: PIL rotates a TIFF when it loads it
    rgb = photo_modes.to_rgb(image)
    return rgb if orientation is None else rgb.transpose(_TURNS[orientation])


def _orientation(image: Image.Image) -> int | None:
    """Returns the EXIF orientation; None if the photo is upright."""
    if image.format == "PNG":
        # `getexif` decodes a PNG. An error of its pixels must not pass for one of its
        # EXIF: the photo is half decoded then, and `load` does not raise it again.
        image.load()
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF does not affect the pixels
        return None
    return orientation if orientation in _TURNS else None


def _is_plain(image: Image.Image, content: bytes) -> bool:
    if image.mode != "RGB" or image.has_transparency_data:
        return False
    if image.format == "PNG":
        return content[_PNG_BIT_DEPTH] == 8
    return image.format == "JPEG"


def _is_read_by_tf(content: bytes) -> bool:
    """Decodes the photo like the input pipeline, which is stricter than PIL."""
    try:
        tf.io.decode_image(content, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
