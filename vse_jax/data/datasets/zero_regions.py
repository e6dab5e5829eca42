"""Logs how the regions of zeros of a split were read, in at most three lines."""

import dataclasses
import logging

from etils import epath

from vse_jax.excerpts import excerpt

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Tally:
    """Images and their rows, with the first image as an example."""

    images: int = 0
    rows: int = 0
    example: str = ""
    example_rows: int = 0

    def add(self, image_id: str, rows: int) -> None:
        if not self.images:
            self.example, self.example_rows = image_id, rows
        self.images += 1
        self.rows += rows


class ZeroReport:
    """Counts regions of zeros while a split is read, and logs how they were read."""

    def __init__(self):
        self._padding = _Tally()
        self._kept = _Tally()
        self._beyond = _Tally()

    def add_padding(self, image_id: str, rows: int) -> None:
        """Counts rows of zeros at the end of an image, which are not read."""
        self._padding.add(image_id, rows)

    def add_kept(self, image_id: str, rows: int) -> None:
        """Counts rows of zeros that are read as regions."""
        self._kept.add(image_id, rows)

    def add_beyond(self, image_id: str) -> None:
        """Counts an image with other values than zeros beyond its count."""
        self._beyond.add(image_id, 0)

    def log(self, path: epath.Path, counts_path: epath.Path, image_count: int) -> None:
        """Logs one warning for each kind that occurred.

        Args:
          path: of the features.
          counts_path: of the file that has the counts, or would have them.
          image_count: of the split.
        """
        if self._padding.images:
            logger.warning(
                "%s: %d of %d images end in rows of zeros (%d rows, such as the last "
                "%d of image id %s), which are skipped as padding; if they are "
                "regions, save the number of regions of each image in %s",
                path,
                self._padding.images,
                image_count,
                self._padding.rows,
                self._padding.example_rows,
                excerpt(self._padding.example),
                counts_path.name,
            )
        if self._kept.images:
            logger.warning(
                "%s: %d of %d images have regions of zeros (%d regions, such as %d of "
                "image id %s), which are kept",
                path,
                self._kept.images,
                image_count,
                self._kept.rows,
                self._kept.example_rows,
                excerpt(self._kept.example),
            )
        if self._beyond.images:
            logger.warning(
                "%s: %d of %d images have values other than zero beyond their number "
                "of regions (such as image id %s), which are skipped; check that the "
                "counts belong to these features",
                path,
                self._beyond.images,
                image_count,
                excerpt(self._beyond.example),
            )
