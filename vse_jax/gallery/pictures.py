"""The photos of a gallery's rows, for thumbnails."""

import base64
import functools
import io
import threading
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from vse_jax import files
from vse_jax.data import local_copy, records
from vse_jax.data.datasets import photos
from vse_jax.data.split_index import split_index
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.sources import IMAGES, image_row_ids
from vse_jax.storage import as_os_errors

_TINY = 128  # pixels


class _Split(NamedTuple):
    """A split with photos, and the number of the record of each row's ID."""

    content: records.Content
    reader: records.RecordReader
    numbers: dict[str, int]


class Pictures:
    """Reads the photos of a gallery; threads may share it."""

    def __init__(self, gallery: Gallery, maximum_pixels: int = photos.MAXIMUM_PIXELS):
        """Reads nothing yet.

        Args:
          gallery: the gallery.
          maximum_pixels: largest width times height of a photo in a file.
        """
        self._gallery = gallery
        self._maximum_pixels = maximum_pixels
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes | None:
        """Returns the photo of a row as JPEG or PNG; None if there is none to read.

        Args:
          row: number of the row.
        """
        if self._gallery.content != IMAGES:
            return None
        path = self._gallery.row(row).path
        try:
            with as_os_errors():
                if path is not None:
                    content = files.read_bytes(epath.Path(path))
                    return photos.to_stored(content, self._maximum_pixels)
                return self._of_split(row)
        except (OSError, photos.PhotoError):
            return None  # it was changed or deleted since

    def _of_split(self, row):
        with self._lock:  # a reader is not shared by threads
            split = self._split
            record = split.numbers.get(self._gallery.row(row).id) if split else None
            if record is None:
                return None
            serialized = split.reader.read(np.array([record]))
            return records.parse_encoded(split.content, serialized).numpy()[0]

    @functools.cached_property
    def _split(self) -> _Split | None:
        options = self._gallery.options
        directory = epath.Path(options["source"])
        if "split" not in options or not directory.is_dir():
            return None
        builder = local_copy.open_dataset(directory)
        content = records.content_of(builder)
        if content.key != "image":
            return None
        ids = image_row_ids(split_index(builder, options["split"]))
        return _Split(
            content,
            records.RecordReader(builder, options["split"]),
            {row_id: number for number, row_id in enumerate(ids)},
        )


def thumbnail_url(content: bytes, size: int) -> str:
    """Returns `thumbnail` as a `data:` URL, which an HTML page can contain."""
    encoded = base64.b64encode(thumbnail(content, size)).decode()
    return f"data:image/jpeg;base64,{encoded}"


def thumbnail(content: bytes, size: int) -> bytes:
    """Returns a small copy of a photo as JPEG.

    Args:
      content: a photo that `Pictures.read` returned.
      size: maximum width and height in pixels.
    """
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        image.draft("RGB", (2 * size, 2 * size))  # decodes fewer pixels of a JPEG
        small = image.convert("RGB")
        small.thumbnail((size, size))
    stream = io.BytesIO()
    # Pages enlarge tiny pictures, and every flaw with them.
    options = {"subsampling": 0, "quality": 95} if max(small.size) <= _TINY else {}
    small.save(stream, "JPEG", **{"quality": 85} | options)
    return stream.getvalue()
