"""Photos that belong to no dataset: files, PIL images and arrays of pixels.

They become pixels in the same way as the photos of a dataset in an evaluation.
"""

import functools
import io
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from etils import epath
from PIL import Image

from vse_jax import files
from vse_jax.data import photo_crops, photo_geometry
from vse_jax.data.datasets import photo_modes, photos
from vse_jax.errors import one_line

Photo = str | os.PathLike | bytes | Image.Image | np.ndarray


def pixels_reader(
    geometry: photo_geometry.Geometry,
    crops: int = 1,
    maximum_pixels: int = photos.MAXIMUM_PIXELS,
) -> Callable:
    """Returns a function that decodes and crops a photo; threads may share it.

    Args:
      geometry: of the crops.
      crops: 1 (center) or 10 (also corners, and mirrored).
      maximum_pixels: largest width times height of a photo in a file.

    Returns:
      A function from a photo (a path, the content of a file, a PIL image, or an array
      uint8 `[height, width, 3]`) to uint8 `[size, size, 3]`, or
      `[10, size, size, 3]` for ten crops. It raises `photos.PhotoError` if the photo
      cannot be read or decoded.
    """
    cut = photo_crops.ten_crops if crops == 10 else photo_crops.center_crops

    @functools.partial(tf.function, input_signature=[tf.TensorSpec([1], tf.string)])
    def crop(encoded: tf.Tensor) -> tf.Tensor:
        return cut(encoded, geometry)[0]

    def read(photo: Photo) -> np.ndarray:
        encoded = tf.constant([_encoded(photo, maximum_pixels)])
        try:
            return crop(encoded).numpy()
        except tf.errors.OpError as error:
            raise photos.PhotoError(one_line(error)) from None

    return read


def _encoded(photo: Photo, maximum_pixels: int) -> bytes:
    """Returns a photo as JPEG or PNG."""
    if isinstance(photo, np.ndarray):
        return _png(_of_array(photo))
    if isinstance(photo, Image.Image):
        return _png(_of_pil(photo))
    if isinstance(photo, bytes):
        return photos.to_stored(photo, maximum_pixels)
    if not files.is_local(photo) and not os.fspath(photo).startswith("gs://"):
        raise photos.PhotoError(
            "it is no local path, nor gs://; download the photo and name its file"
        )
    try:
        content = files.read_bytes(epath.Path(photo).expanduser())
    except OSError as error:
        raise photos.PhotoError(error.strerror or one_line(error)) from None
    return photos.to_stored(content, maximum_pixels)


def _of_array(pixels):
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise photos.PhotoError(
            f"it is {pixels.dtype} {list(pixels.shape)}; expected uint8 "
            "[height, width, 3]"
        )
    if 0 in pixels.shape:
        raise photos.PhotoError("it has no pixels; expected at least one")
    return Image.fromarray(pixels)


def _of_pil(image):
    try:
        # An image that was made or changed has no format. It may be turned already, but
        # keep the EXIF of its file.
        return photos.upright_rgb(image) if image.format else photo_modes.to_rgb(image)
    except Exception as error:  # PIL may raise any error for damaged files
        raise photos.PhotoError(one_line(error)) from error


def _png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=0)
    return stream.getvalue()
