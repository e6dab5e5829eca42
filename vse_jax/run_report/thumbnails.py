"""Small photos as `data:` URLs, which an HTML page can contain."""

from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds

from vse_jax.data import records
from vse_jax.gallery.pictures import thumbnail_url

SIDE = 160  # pixels of the longer side; shown at half of it, for fine screens
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
        photos = records.parse_encoded(content, reader.read(some)).numpy()
        for number, photo in zip(some.tolist(), photos, strict=True):
            urls[number] = thumbnail_url(photo, SIDE)
    return urls
