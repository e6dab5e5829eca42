"""Common parts of datasets of photos that files list with their captions.

Each dataset reads its own captions files. This module decodes and stores the photos.
"""

import collections
import dataclasses
import functools
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.data.datasets import (
    captioned_images,
    photo_formats,
    photos,
    source_folder,
)
from vse_jax.data.datasets.photo_places import Photo
from vse_jax.errors import InputError, one_line
from vse_jax.excerpts import printable
from vse_jax.threads import in_order

logger = logging.getLogger(__name__)

_NAMED = 1_000  # skipped photos per split that are logged, one line each
_UNKNOWN_BYTES = 2**18  # assumed for a photo of unknown size


@dataclasses.dataclass(eq=False, kw_only=True)
class CaptionedPhotosConfig(tfds.core.BuilderConfig):
    """Configures the source of the photos, and how many may be skipped.

    Attributes:
      root: folder of the photos.
      annotations: names of the files that list the photos.
      splits: photos of each non-empty split.
      fingerprint: sizes and times of the files.
      strict: whether an absent or invalid photo is an error instead of being skipped.
      allowed_missing: share of a split that may be absent or invalid, from 0 to 1.
      maximum_pixels: maximum of width times height of a photo.
    """

    root: epath.Path
    annotations: str
    splits: dict[str, list[Photo]] = dataclasses.field(repr=False)
    fingerprint: dict[str, list]
    strict: bool
    allowed_missing: float
    maximum_pixels: int


class CaptionedPhotos(captioned_images.CaptionedImages, skip_registration=True):
    """Examples of one photo each: `image_id`, `captions` and encoded `image`.

    Photos may differ in size. Photos that are absent or cannot be decoded are skipped,
    counted and logged. They are an error if `strict` is set, or if their share of a
    split exceeds `allowed_missing`.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        image = tfds.features.Image(shape=(None, None, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photos and captions.",
            features=tfds.features.FeaturesDict(
                captioned_images.caption_features() | {"image": image}
            ),
            metadata=tfds.core.MetadataDict(
                root=os.fspath(config.root),
                sources=config.fingerprint,
                listed={name: len(listed) for name, listed in config.splits.items()},
                maximum_pixels=config.maximum_pixels,
            ),
            disable_shuffling=True,
        )

    def download_and_prepare(self, **options) -> None:
        """Prepares the dataset, and logs how many photos were skipped."""
        self._absent: dict[str, int] = collections.Counter()
        self._invalid: dict[str, int] = collections.Counter()
        with photos.own_limit():
            super().download_and_prepare(**options)
        root = printable(self.builder_config.root)
        for counts, what in (
            (self._absent, "are absent"),
            (self._invalid, "cannot be decoded"),
        ):
            if counts:
                logger.warning(
                    "%s: skipped photos that %s: %s", root, what, self._shares(counts)
                )

    def _shares(self, counts: dict[str, int]) -> str:
        splits = self.builder_config.splits
        return ", ".join(
            f"{n} {count} of {len(splits[n])}" for n, count in counts.items()
        )

    def _split_plans(self) -> dict[str, captioned_images.SplitPlan]:
        return {
            name: captioned_images.SplitPlan(
                image_count=len(listed),
                image_bytes=_average_bytes(listed),
                examples=functools.partial(self._examples, name, listed),
            )
            for name, listed in self.builder_config.splits.items()
        }

    def _examples(
        self, split: str, listed: list[Photo], start: int, stop: int
    ) -> Iterator[dict[str, Any] | None]:
        part = listed[start:stop]
        for photo, stored in zip(part, in_order(self._read, part), strict=True):
            if isinstance(stored, photos.PhotoError):
                self._skip(split, photo, stored)
                yield None
                continue
            yield {
                "image_id": photo.image_id,
                "captions": photo.captions,
                "image": io.BytesIO(stored),
            }
        if self._skipped(split) == len(listed):
            raise InputError(
                f"{printable(self.builder_config.root)}: none of the {len(listed)} "
                f"photos of the split {split!r} can be decoded, such as "
                f"{printable(listed[0].path)}; expected photos in the formats "
                f"{', '.join(photo_formats.FORMATS)}"
            )

    def _read(self, photo: Photo) -> bytes | photos.PhotoError:
        config = self.builder_config
        if photo.status is None:
            return photos.PhotoError(
                f"{photo.reason}, but {config.annotations} lists it"
            )
        try:
            path = source_folder.below(config.root, photo.path)
            content = files.read_bytes(path)
            return photos.to_stored(content, config.maximum_pixels)
        except OSError as error:
            return photos.PhotoError(error.strerror or one_line(error))
        except photos.PhotoError as error:
            return error

    def _skipped(self, split: str) -> int:
        return self._absent[split] + self._invalid[split]

    def _skip(self, split: str, photo: Photo, error: photos.PhotoError) -> None:
        config = self.builder_config
        path = printable(config.root / photo.path)
        if config.strict:
            raise InputError(strict_refusal(path, str(error), config.annotations))
        counts = self._absent if photo.status is None else self._invalid
        counts[split] += 1
        skipped, listed = self._skipped(split), len(config.splits[split])
        if skipped <= _NAMED:
            logger.warning("skipping %s (%s): %s", path, split, error)
        elif skipped == _NAMED + 1:
            logger.warning(
                "skipping more photos of %s; they are counted but not logged", split
            )
        if too_many(skipped, listed, config.allowed_missing):
            raise InputError(
                f"{printable(config.root)}: at least {skipped} of {listed} photos of "
                f"the split {split!r} are absent ({self._absent[split]}) or cannot be "
                f"decoded ({self._invalid[split]}), such as {path} ({error}); "
                f"expected at most a share of {config.allowed_missing:.3g}; replace "
                "them, or set config.data.allowed_missing to a larger share"
            )


def too_many(missing: int, listed: int, allowed: float) -> bool:
    """Returns whether the missing photos exceed the share `allowed` of a split."""
    return missing > allowed * listed + 1e-6  # 0.07 * 100 is more than 7


def strict_refusal(path: str, reason: str, annotations: str) -> str:
    """Returns the message for an unusable photo if `config.data.strict` is set."""
    return (
        f"{path}: {reason}; replace it or remove it from {annotations}, or set "
        "config.data.strict=False to skip such photos"
    )


def _average_bytes(listed: list[Photo]) -> int:
    sizes = [photo.status[0] for photo in listed if photo.status]
    return sum(sizes) // max(1, len(sizes)) or _UNKNOWN_BYTES
