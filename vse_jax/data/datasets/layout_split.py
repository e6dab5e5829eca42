"""One split of features, captions and ids, and the checks of the features' values."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from etils import epath

from vse_jax.data.datasets.layout_captions import SplitCaptions
from vse_jax.data.datasets.padded_features import StoredImage
from vse_jax.data.datasets.zero_regions import ZeroReport
from vse_jax.errors import InputError


class ImageFeatures(Protocol):
    """The features of a split's images, in the order of its captions."""

    path: epath.Path
    dim: int
    has_regions: bool  # or one feature for each image
    dtype: np.dtype  # as stored
    image_bytes: int  # of the largest image
    shape_text: str

    def images(
        self, start: int, stop: int, report: ZeroReport
    ) -> Iterator[StoredImage]:
        """Yields images `start` to `stop - 1`."""


@dataclasses.dataclass
class LayoutSplit:
    """One split: the features of its images, and their captions."""

    features: ImageFeatures
    captions: SplitCaptions
    counts_path: epath.Path  # where the numbers of regions are, or would be

    def __post_init__(self):
        self._report = ZeroReport()

    @property
    def image_count(self) -> int:
        """Number of images."""
        return len(self.captions.image_ids)

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images."""
        return self.captions.image_ids

    def captions_of(self, image: int) -> list[str]:
        """Returns the captions of an image by its number."""
        return self.captions.of(image)

    def images(
        self, start: int, stop: int, dtype: np.dtype
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields number and feature of images `start` to `stop - 1`.

        With the last image of the split, it logs what regions of zeros there were.

        Yields:
          The image's number and `[regions, dim]` or `[dim]` of `dtype`.

        Raises:
          InputError: if a value is NaN, infinite or beyond the range of `dtype`, if an
            image holds only zeros, or if the file cannot be read.
        """
        if start == 0:
            self._report = ZeroReport()
        images = self.features.images(start, stop, self._report)
        # An error would otherwise keep the file open for as long as its traceback.
        with contextlib.closing(images):
            for image, (place, values) in enumerate(images, start):
                yield image, self._checked(image, place, values, dtype)
        if stop == self.image_count:
            self._report.log(self.features.path, self.counts_path, self.image_count)

    def _checked(
        self, image: int, place: str, values: np.ndarray, dtype: np.dtype
    ) -> np.ndarray:
        """Converts the feature of an image; raises InputError as `images` does."""
        # Of each region. NaN and infinite values reach it, and it is quickly converted
        # to float16, of which arithmetic is slow.
        largest = np.asarray(np.maximum(values.max(axis=-1), -values.min(axis=-1)))
        if not np.isfinite(largest).all():
            advice = "expected finite values: extract it again"
            raise _at_first(place, values, ~np.isfinite(values), advice)
        with np.errstate(over="ignore"):
            converted = largest.astype(dtype)
            if np.isinf(converted).any():
                advice = (
                    f"beyond the range of {np.dtype(dtype).name} "
                    f"(+-{np.finfo(dtype).max:g}): scale the features down"
                )
                raise _at_first(place, values, np.isinf(values.astype(dtype)), advice)
        if not converted.all():
            self._check_zeros(image, place, largest, converted)
        return values.astype(dtype)

    def _check_zeros(
        self, image: int, place: str, largest: np.ndarray, converted: np.ndarray
    ) -> None:
        zeros = converted == 0
        if largest[zeros].any():
            smallest = np.finfo(converted.dtype).smallest_subnormal
            raise InputError(
                f"{place} holds a feature that {converted.dtype.name} rounds to zero "
                f"(values below {smallest:.0e}); scale the features up"
            )
        if not zeros.ndim:
            raise InputError(
                f"{place} holds only zeros; expected a feature: extract it again, or "
                "remove the image"
            )
        self._report.add_kept(self.image_ids[image], int(zeros.sum()))


def _at_first(
    place: str, values: np.ndarray, wrong: np.ndarray, advice: str
) -> InputError:
    where = tuple(np.argwhere(wrong)[0])
    return InputError(
        f"{place} holds {values[where]:g} at {[int(i) for i in where]}; {advice}"
    )
