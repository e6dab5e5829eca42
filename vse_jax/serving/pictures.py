"""Pictures of a gallery's rows as JPEG, small or large, of which the last are kept."""

import collections
import threading

from vse_jax.gallery.pictures import thumbnail
from vse_jax.search.searcher import Searcher

SIZES = {"small": 480, "large": 1600}  # maximum width and height in pixels
_KEPT_BYTES = 64 * 2**20


class PictureCache:
    """Encodes pictures; threads may share it.

    Pictures are always encoded anew: they are small, have no metadata such as the place
    of a photo, and are JPEG whatever the file is.
    """

    def __init__(self, searcher: Searcher, kept_bytes: int = _KEPT_BYTES):
        """Starts with no picture.

        Args:
          searcher: has the photos.
          kept_bytes: bytes of JPEG that are kept in memory.
        """
        self._searcher = searcher
        self._room = kept_bytes
        self._kept: collections.OrderedDict[tuple, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, row: int, size: str) -> bytes | None:
        """Returns the picture of a row as JPEG; None if there is none.

        Args:
          row: number of the row.
          size: one of `SIZES`.
        """
        with self._lock:
            if (row, size) in self._kept:
                self._kept.move_to_end((row, size))
                return self._kept[row, size]
        content = self._searcher.picture(row)
        if content is None:
            return None
        picture = thumbnail(content, SIZES[size])
        self._keep((row, size), picture)
        return picture

    def _keep(self, key, picture):
        with self._lock:
            if key in self._kept:
                return  # another thread encoded it too
            self._kept[key] = picture
            self._room -= len(picture)
            while self._room < 0:
                self._room += len(self._kept.popitem(last=False)[1])
