"""Features of all images in one array, padded where images have fewer regions."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from vse_jax.data.datasets import feature_array
from vse_jax.data.datasets.feature_array import RowArray
from vse_jax.data.datasets.zero_regions import ZeroReport
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt

_REPEATS = 5  # how often the old layout holds every image
_SAMPLED_GROUPS = 32  # looked at to tell the old layout


class StoredImage(NamedTuple):
    """The features of one image as they are stored.

    Attributes:
      place: the file and the record, which begin a message.
      values: float `[regions, dim]` or `[dim]`, without padding.
    """

    place: str
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class PaddedFeatures:
    """`rows_per_image` consecutive, equal rows of an array for each image.

    Attributes:
      array: `[rows, regions, dim]` or `[rows, dim]`.
      rows_per_image: 1, or 5 in the old layout.
      image_ids: of each image.
      counts: int64 `[images]`, regions that exist of each image; None if unknown.
      counts_path: the file that has the counts, or would have them.
    """

    array: RowArray
    rows_per_image: int
    image_ids: Sequence[str]
    counts: np.ndarray | None
    counts_path: epath.Path

    @property
    def path(self) -> epath.Path:
        """The file."""
        return self.array.path

    @property
    def dim(self) -> int:
        """Dimensions of a feature."""
        return self.array.dim

    @property
    def has_regions(self) -> bool:
        """Whether an image has several regions rather than one feature."""
        return self.array.has_regions

    @property
    def dtype(self) -> np.dtype:
        """Of the file."""
        return self.array.dtype

    @property
    def image_bytes(self) -> int:
        """Bytes of the largest image."""
        return self.array.row_bytes

    @property
    def shape_text(self) -> str:
        """The shape, for messages."""
        return str(list(self.array.shape))

    def images(
        self, start: int, stop: int, report: ZeroReport
    ) -> Iterator[StoredImage]:
        """Yields images `start` to `stop - 1` without their padding.

        Raises:
          InputError: if the file cannot be read, the rows of an image differ, or an
            image has neither a count nor anything but zeros.
        """
        rows = self.rows_per_image
        for first, chunk in self.array.chunks(start * rows, stop * rows, rows):
            self._check_repeats(chunk, first)
            for image, values in enumerate(chunk[::rows], first // rows):
                name = self.array.row_name(image * rows)
                place = f"{name} (from 0; image id {excerpt(self.image_ids[image])})"
                yield StoredImage(place, self._existing(image, values, place, report))

    def _existing(
        self, image: int, values: np.ndarray, place: str, report: ZeroReport
    ) -> np.ndarray:
        """Returns the regions that exist: those counted, or up to the last nonzero."""
        if not self.has_regions:
            return values
        if self.counts is not None:
            count = int(self.counts[image])
            if values[count:].any():
                report.add_beyond(self.image_ids[image])
            return values[:count]
        if values[-1].any():
            return values
        nonzero = np.flatnonzero(values.any(axis=-1))
        if not nonzero.size:
            raise InputError(
                f"{place} holds only zeros; expected at least one region: extract it "
                "again, remove the image, or, if its zeros are regions, save the "
                f"number of regions of each image in {self.counts_path.name}"
            )
        count = int(nonzero[-1]) + 1
        report.add_padding(self.image_ids[image], len(values) - count)
        return values[:count]

    def _check_repeats(self, chunk: np.ndarray, first: int) -> None:
        if self.rows_per_image == 1:
            return
        groups = _as_bytes(chunk).reshape(-1, self.rows_per_image, chunk[0].nbytes)
        differs = np.flatnonzero((groups != groups[:, :1]).any(axis=(1, 2)))
        if differs.size:
            raise _uneven_repeats(self.array, first + differs[0] * self.rows_per_image)


def _is_repeated(array: RowArray) -> bool:
    """Returns whether every image is stored five times, from a sample of the rows.

    Raises:
      InputError: if some images of the sample are stored five times and others once.
    """
    group_count, rest = divmod(array.shape[0], _REPEATS)
    if rest:
        return False
    sample = np.linspace(0, group_count - 1, min(group_count, _SAMPLED_GROUPS))
    equal = {int(i): _rows_are_equal(array, int(i) * _REPEATS) for i in sample}
    if len(set(equal.values())) > 1:
        group = next(i for i, is_equal in equal.items() if not is_equal)
        raise _uneven_repeats(array, group * _REPEATS)
    return equal[0]


def rows_per_image(array: RowArray, caption_count: int) -> int:
    """Returns 5 for the old layout, which has a row for each caption; else 1."""
    repeated = caption_count == array.shape[0] and _is_repeated(array)
    return _REPEATS if repeated else 1


def read_counts(
    path: epath.Path, array: RowArray, repeats: int, image_ids: Sequence[str]
) -> np.ndarray:
    """Reads the number of regions of each image from a `.npy` file.

    Args:
      path: of the counts, integers `[images]`, or `[rows]` with equal numbers for the
        rows of an image.
      array: of the features.
      repeats: rows of an image.
      image_ids: of each image.

    Returns:
      int64 `[images]`.

    Raises:
      InputError: if the file is invalid, or a count is not between 1 and the regions of
        the array.
    """
    counts = feature_array.read_integers(path, array.shape[0])
    return check_counts(os.fspath(path), counts, array, repeats, image_ids)


def check_counts(
    name: str,
    counts: np.ndarray,
    array: RowArray,
    repeats: int,
    image_ids: Sequence[str],
) -> np.ndarray:
    """Returns int64 `[images]`, checked; see `read_counts`.

    Args:
      name: of the counts, which begins the message.
      counts: int64 `[images]` or `[rows]`.
      array: of the features.
      repeats: rows of an image.
      image_ids: of each image.

    Raises:
      InputError: as `read_counts` does.
    """
    if not array.has_regions:
        raise InputError(
            f"{name}: counts regions, but {array.path.name} has the shape "
            f"{list(array.shape)}, one feature for each image; remove the counts, or "
            "save features [images, regions, dim]"
        )
    counts = _one_count_an_image(name, counts, array, repeats, image_ids)
    regions = array.shape[1]
    wrong = np.flatnonzero((counts < 1) | (counts > regions))
    if wrong.size:
        image = wrong[0]
        raise InputError(
            f"{name}: image {image} (from 0; image id {excerpt(image_ids[image])}) has "
            f"{counts[image]} regions; expected 1 to {regions}, as {array.path.name} "
            f"has the shape {list(array.shape)}: fix the count or remove the image"
        )
    return counts


def _one_count_an_image(
    name: str,
    counts: np.ndarray,
    array: RowArray,
    repeats: int,
    image_ids: Sequence[str],
) -> np.ndarray:
    images = len(image_ids)
    if len(counts) == images:
        return counts
    if len(counts) != array.shape[0]:
        raise InputError(
            f"{name}: has {len(counts)} counts; expected {images}, one for each image "
            f"of {array.path.name}"
        )
    groups = counts.reshape(images, repeats)
    uneven = np.flatnonzero((groups != groups[:, :1]).any(axis=1))
    if uneven.size:
        image = uneven[0]
        first = image * repeats
        raise InputError(
            f"{name}: rows {first} to {first + repeats - 1} (from 0; image id "
            f"{excerpt(image_ids[image])}) differ: {groups[image].tolist()}; expected "
            "the same count in all rows of an image"
        )
    return groups[:, 0]


def _rows_are_equal(array: RowArray, first: int) -> bool:
    rows = array.chunks(first, first + _REPEATS, _REPEATS)
    content = _as_bytes(next(rows)[1]).reshape(_REPEATS, -1)
    return bool((content == content[0]).all())


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    """Views rows as bytes, as NaN differs from itself and -0.0 does not from 0.0."""
    return rows.reshape(len(rows), -1).view(np.uint8)


def _uneven_repeats(array: RowArray, first: int) -> InputError:
    return InputError(
        f"{array.path}: rows {first} to {first + _REPEATS - 1} (from 0) differ, "
        "though other images are repeated five times; expected every image five times, "
        "or each once: extract it again"
    )
