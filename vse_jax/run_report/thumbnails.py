"""Small photos as `data:` URLs, which an HTML page can contain."""

import base64
import io
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vse_jax.data import records

SIDE = 160  # pixels of the longer side; shown at up to half of it on fine screens
_QUALITY = 75  # of WebP, 0 to 100
_AT_ONCE = 16  # photos in memory


def read(
    builder: tfds.core.DatasetBuilder, split: str, images: Iterable[int]
) -> dict[int, str]:
    """Returns thumbnails of images; {} if the dataset has features, not photos.

    Args:
      builder: a prepared dataset.
      split: name of the split.
      images: numbers of the images in the split.

    Returns:
      `data:` URLs by number.
    """
    content = records.content_of(builder)
    if content.key != "image":
        return {}
    reader = records.RecordReader(builder, split)
    numbers = np.array(sorted(images), np.int64)
    urls = {}
    for some in np.split(numbers, range(_AT_ONCE, len(numbers), _AT_ONCE)):
        photos = records.decode_each(content, reader.read(some))
        urls |= dict(zip(some.tolist(), map(encode, photos), strict=True))
    return urls


def encode(photo: np.ndarray) -> str:
    """Returns a photo, uint8 `[height, width, 3]`, as a small WebP in a `data:` URL."""
    image = Image.fromarray(photo)
    image.thumbnail((SIDE, SIDE))  # keeps the proportions, never enlarges
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
