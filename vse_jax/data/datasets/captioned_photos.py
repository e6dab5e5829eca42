"""What datasets of photos in a folder share: one file lists them, with their captions.

A dataset of its own reads that file; finding, decoding and storing the photos is here.
"""

import abc
import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import logging
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import ml_collections
import tensorflow_datasets as tfds
from etils import epath

from vse_jax.data.datasets import captioned_images, photos, source_folder
from vse_jax.errors import InputError

logger = logging.getLogger(__name__)

_NAMED = 1_000  # skipped photos of a split that are named, each in a line
_THREADS = min(16, os.cpu_count() or 1)  # reading and decoding
_UNKNOWN_BYTES = 2**18  # of a photo, where the listing does not tell

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class ListedPhoto:
    """A photo as a dataset's file lists it.

    Attributes:
      image_id: the name it has in results.
      captions: at least one.
      places: where it may lie below the root, the likeliest first.
    """

    image_id: str
    captions: tuple[str, ...]
    places: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo where it lies, or would lie if it were not absent.

    Attributes:
      image_id: the name it has in results.
      captions: at least one.
      path: below the root.
      status: size in bytes and time of change; None if it is absent.
    """

    image_id: str
    captions: tuple[str, ...]
    path: str
    status: source_folder.SizeAndTime | None


@dataclasses.dataclass(eq=False, kw_only=True)
class CaptionedPhotosConfig(tfds.core.BuilderConfig):
    """Where the photos come from, and whether all must be decoded."""

    root: epath.Path
    annotations: epath.Path
    splits: dict[str, list[Photo]] = dataclasses.field(repr=False)
    fingerprint: dict[str, list]
    strict: bool


class CaptionedPhotos(captioned_images.CaptionedImages, skip_registration=True):
    """One example a photo: `image_id`, `captions` and `image`, encoded, of any size.

    Photos that cannot be decoded are left out and told, or refused if `strict`.
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
            ),
            disable_shuffling=True,
        )

    def download_and_prepare(self, **options) -> None:
        """Prepares the dataset, and tells how many photos were left out."""
        self._skipped: dict[str, int] = collections.Counter()
        super().download_and_prepare(**options)
        if self._skipped:
            counts = (
                f"{name} {count} of {len(self.builder_config.splits[name])}"
                for name, count in self._skipped.items()
            )
            logger.warning(
                "%s: skipped photos that cannot be decoded: %s",
                *(self.builder_config.root, ", ".join(counts)),
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
        for photo, stored in zip(part, _in_order(self._read, part), strict=True):
            if isinstance(stored, photos.PhotoError):
                self._skip(split, photo, stored)
                yield None
                continue
            yield {
                "image_id": photo.image_id,
                "captions": photo.captions,
                "image": io.BytesIO(stored),
            }
        if self._skipped[split] == len(listed):
            raise InputError(
                f"{self.builder_config.root}: none of the {len(listed)} photos of the "
                f"split {split!r} can be decoded, such as {listed[0].path}; expected "
                "files such as JPEG or PNG"
            )

    def _read(self, photo: Photo) -> bytes | photos.PhotoError:
        if photo.status is None:
            name = self.builder_config.annotations.name
            return photos.PhotoError(f"it is absent, though {name} lists it")
        try:
            return photos.to_stored(
                (self.builder_config.root / photo.path).read_bytes()
            )
        except OSError as error:
            return photos.PhotoError(error.strerror or str(error))
        except photos.PhotoError as error:
            return error

    def _skip(self, split: str, photo: Photo, error: photos.PhotoError) -> None:
        path = self.builder_config.root / photo.path
        if self.builder_config.strict:
            raise InputError(
                f"{path}: cannot be decoded: {error}; replace it or take it out of "
                f"{self.builder_config.annotations.name}, or set data.strict=False to "
                "skip such photos"
            ) from error
        self._skipped[split] += 1
        if self._skipped[split] <= _NAMED:
            logger.warning("skipping %s (%s): %s", path, split, error)
        elif self._skipped[split] == _NAMED + 1:
            logger.warning("skipping more photos of %s, which are only counted", split)


def _average_bytes(listed: list[Photo]) -> int:
    sizes = [photo.status[0] for photo in listed if photo.status]
    return sum(sizes) // max(1, len(sizes)) or _UNKNOWN_BYTES


def _in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Yields the results in the order of the items, computed a little ahead."""
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class CaptionedPhotosSource(abc.ABC):
    """The folder `data.root`, and the file in it that lists photos and captions."""

    builder_class: ClassVar[type[CaptionedPhotos]]
    holds: ClassVar[str]  # what the folder holds, for messages
    downloads = False

    def __init__(self, data: ml_collections.ConfigDict):
        """Takes the `data` group of the config; looks at no file."""
        self._root = source_folder.absolute(data.root)
        self._annotations = data.annotations
        self._strict = data.strict
        self.config_name = data.name or source_folder.name_of(
            self._root, data.annotations
        )

    @property
    def builder_name(self) -> str:
        """Name of the dataset."""
        return self.builder_class.name

    @property
    def version(self) -> tfds.core.Version:
        """Version of the form in which it is stored."""
        return self.builder_class.VERSION

    @abc.abstractmethod
    def find_annotations(self, root: epath.Path) -> epath.Path:
        """Returns the file that lists the photos, where no option names it.

        Raises:
          InputError: if there is none, or several.
        """

    @abc.abstractmethod
    def read_annotations(self, path: epath.Path) -> dict[str, list[ListedPhoto]]:
        """Returns the photos of each split that has any, in their order.

        Raises:
          InputError: if the file is not as it should be.
        """

    def fingerprint(self) -> dict[str, list] | None:
        """Returns sizes and times of file and photos; None if there is no folder."""
        if self._root is None or not self._root.is_dir():
            return None
        return self._checked_config.fingerprint

    def splits(self) -> tuple[str, ...]:
        """Returns the splits that the file lists."""
        return tuple(self._checked_config.splits)

    def builder(
        self, data_dir: epath.Path, version: tfds.core.Version
    ) -> CaptionedPhotos:
        """Returns a builder that prepares the folder.

        Raises:
          InputError: if the folder is not as it should be.
        """
        config = dataclasses.replace(self._checked_config, version=version)
        return self.builder_class(data_dir=data_dir, config=config)

    def check_source(self) -> None:
        """Raises InputError if the folder cannot be prepared; decodes no photo."""
        _ = self._checked_config

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Raises InputError if photos were skipped that the config does not skip."""
        listed = dict(builder.info.metadata or {}).get("listed", {})
        skipped = {
            name: listed.get(name, 0) - split.num_examples
            for name, split in builder.info.splits.items()
        }
        if self._strict and any(skipped.values()):
            counts = ", ".join(f"{name} {count}" for name, count in skipped.items())
            raise InputError(
                f"{builder.data_dir}: was prepared without the photos that cannot be "
                f"decoded ({counts}); set data.strict=False, or mend the photos and "
                "prepare them anew"
            )

    @functools.cached_property
    def _checked_config(self) -> CaptionedPhotosConfig:
        source_folder.check_is_folder(self._root, self.holds)
        path = self._annotations_path()
        # Taken first: a file that changes while we read it will differ the next time.
        status = source_folder.size_and_time(path)
        splits = _locate(self.read_annotations(path), self._root)
        if not any(photo.status for listed in splits.values() for photo in listed):
            first = next(iter(splits.values()))[0]
            raise InputError(
                f"{self._root}: holds none of the photos that {path.name} lists, such "
                f"as {first.path}; set data.root to the folder that holds {self.holds}"
            )
        return CaptionedPhotosConfig(
            name=self.config_name,
            root=self._root,
            annotations=path,
            splits=splits,
            fingerprint={path.name: status, "photos": _fingerprint(splits)},
            strict=self._strict,
        )

    def _annotations_path(self) -> epath.Path:
        if not self._annotations:
            return self.find_annotations(self._root)
        named = source_folder.absolute(self._annotations)
        for path in (self._root / self._annotations, named):
            if path.is_file():
                return path
        raise InputError(
            f"data.annotations: there is no file {self._annotations!r} in "
            f"{self._root}, nor {named}; set it to the file that lists the photos"
        )


def path_below_root(name: str) -> str | None:
    """Returns a path with slashes in its plain form; None if it leads out of root."""
    path = posixpath.normpath(name)
    leads_out = path.startswith(("/", "../")) or path in (".", "..") or "\0" in path
    return None if leads_out else path


def check_text(where: str, name: str, text: str) -> None:
    """Raises InputError if JSON's text holds half of an escaped character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise InputError(
            f"{where} has a {name} with half a character ({half!r}), as an emoji that "
            "was cut leaves it; take it out"
        ) from None


def check_split(where: str, split: str, splits: tuple[str, ...]) -> None:
    """Raises InputError if the split that a record names is none of `splits`."""
    if split not in splits:
        raise InputError(
            f"{where} has the split {split!r}; expected one of {', '.join(splits)}"
        )


def _locate(
    splits: dict[str, list[ListedPhoto]], root: epath.Path
) -> dict[str, list[Photo]]:
    listing = source_folder.Listing(root)
    return {
        name: [_locate_one(photo, listing) for photo in listed]
        for name, listed in splits.items()
    }


def _locate_one(photo: ListedPhoto, listing: source_folder.Listing) -> Photo:
    found = (place for place in photo.places if listing.find(place) is not None)
    path = next(found, photo.places[0])
    return Photo(photo.image_id, photo.captions, path, listing.find(path))


def _fingerprint(splits: dict[str, list[Photo]]) -> list:
    """Returns how many photos there are, and a hash of their names, sizes and times."""
    digest, count = hashlib.sha256(), 0
    for listed in splits.values():
        for photo in listed:
            digest.update(f"{photo.path}\0{photo.status}\n".encode())
            count += photo.status is not None
    return [count, digest.hexdigest()]
