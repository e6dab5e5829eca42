"""The base class of sources with a folder of photos and files that list them."""

import abc
import dataclasses
import functools
import hashlib
from typing import ClassVar

import ml_collections
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.data.datasets import photo_places, source_folder
from vse_jax.data.datasets.captioned_photos import (
    CaptionedPhotos,
    CaptionedPhotosConfig,
    strict_refusal,
    too_many,
)
from vse_jax.data.datasets.photo_places import ListedPhoto, Photo
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt, printable

Annotations = tuple[epath.Path, ...]


class CaptionedPhotosSource(abc.ABC):
    """A folder (`config.data.root`) of photos and the files that list them."""

    builder_class: ClassVar[type[CaptionedPhotos]]
    holds: ClassVar[str]  # expected content of the folder, for messages
    downloads = False

    def __init__(self, data: ml_collections.ConfigDict):
        """Initializes the source from `config.data`, without reading files.

        Raises:
          InputError: if an option is out of range.
        """
        _check_options(data)
        self._root = source_folder.absolute(data.root)
        self._annotations = data.annotations
        self._strict = data.strict
        self._allowed_missing = data.allowed_missing
        self._maximum_pixels = data.maximum_pixels
        self.config_name = data.name or source_folder.name_of(
            self._root, data.annotations
        )

    @property
    def builder_name(self) -> str:
        """Name of the dataset."""
        return self.builder_class.name

    @property
    def version(self) -> tfds.core.Version:
        """Version of the storage format."""
        return self.builder_class.VERSION

    @abc.abstractmethod
    def find_annotations(self, root: epath.Path) -> Annotations:
        """Returns the files that list the photos if no option names one.

        Raises:
          InputError: if the files are missing or ambiguous.
        """

    @abc.abstractmethod
    def read_annotations(
        self, paths: Annotations, root: epath.Path
    ) -> dict[str, list[ListedPhoto]]:
        """Returns the photos of each non-empty split, in order.

        Args:
          paths: paths of the files that list the photos.
          root: the folder with the photos.

        Raises:
          InputError: if a file is invalid.
        """

    def fingerprint(self) -> dict[str, list] | None:
        """Returns sizes and times of all files; None if the folder does not exist."""
        if self._root is None or not self._root.is_dir():
            return None
        return self._config.fingerprint

    def splits(self) -> tuple[str, ...]:
        """Returns the splits that the files list."""
        return tuple(self._config.splits)

    def builder(
        self, data_dir: epath.Path, version: tfds.core.Version
    ) -> CaptionedPhotos:
        """Returns a builder that prepares the folder.

        Raises:
          InputError: if the folder is invalid.
        """
        self.check_source()
        config = dataclasses.replace(self._config, version=version)
        return self.builder_class(data_dir=data_dir, config=config)

    def check_source(self) -> None:
        """Raises InputError if the folder is invalid; does not decode photos."""
        config = self._config
        found = any(p.status for listed in config.splits.values() for p in listed)
        if not found:
            first = next(iter(config.splits.values()))[0]
            raise InputError(
                f"{printable(config.root)}: has none of the photos that "
                f"{config.annotations} lists, such as {printable(first.path)}; set "
                f"config.data.root to the folder that holds {self.holds}"
            )
        for name, listed in config.splits.items():
            self._check_absent(name, listed)

    def _check_absent(self, split: str, listed: list[Photo]) -> None:
        config = self._config
        absent = [photo for photo in listed if photo.status is None]
        if not absent:
            return
        path = printable(config.root / absent[0].path)
        if config.strict:
            reason = f"{absent[0].reason}, but {config.annotations} lists it"
            raise InputError(strict_refusal(path, reason, config.annotations))
        if too_many(len(absent), len(listed), config.allowed_missing):
            raise InputError(
                f"{printable(config.root)}: {len(absent)} of {len(listed)} photos of "
                f"the split {split!r} are absent, such as {path} ({absent[0].reason}); "
                f"expected at most a share of {config.allowed_missing:.3g}; add them, "
                "or set config.data.allowed_missing to a larger share"
            )

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Raises InputError if prepared data lacks photos that the config requires."""
        metadata = dict(builder.info.metadata or {})
        listed = metadata.get("listed", {})
        skipped = {
            name: listed.get(name, 0) - split.num_examples
            for name, split in builder.info.splits.items()
        }
        if not any(skipped.values()):
            return
        if self._strict:
            counts = ", ".join(f"{name} {count}" for name, count in skipped.items())
            raise InputError(
                f"{builder.data_dir}: was prepared without the photos that are absent "
                f"or cannot be decoded ({counts}); set config.data.strict=False, or "
                "fix the photos and prepare the data again"
            )
        for name, count in skipped.items():
            if too_many(count, listed.get(name, 0), self._allowed_missing):
                raise InputError(
                    f"{builder.data_dir}: was prepared without {count} of "
                    f"{listed[name]} photos of the split {name!r}; expected at most "
                    f"a share of {self._allowed_missing:.3g}; set "
                    "config.data.allowed_missing to a larger share, or fix the photos "
                    "and prepare the data again"
                )
        limit = metadata.get("maximum_pixels", self._maximum_pixels)
        if limit != self._maximum_pixels:
            raise InputError(
                f"{builder.data_dir}: was prepared with config.data.maximum_pixels="
                f"{limit}, and photos were skipped; delete the folder to prepare the "
                f"data again with {self._maximum_pixels}, or set the option to {limit}"
            )

    @functools.cached_property
    def _config(self) -> CaptionedPhotosConfig:
        source_folder.check_is_folder(self._root, self.holds)
        paths = self._annotation_paths()
        # Taken first, so that a file that changes while it is read differs next time.
        try:
            statuses = {path.name: files.size_and_time(path) for path in paths}
        except OSError as error:
            raise source_folder.unreadable_among(list(paths), error) from None
        listed = self.read_annotations(paths, self._root)
        splits = photo_places.locate(listed, self._root)
        return CaptionedPhotosConfig(
            name=self.config_name,
            root=self._root,
            annotations=" and ".join(path.name for path in paths),
            splits=splits,
            fingerprint=statuses | {"photos": _fingerprint(splits)},
            strict=self._strict,
            allowed_missing=self._allowed_missing,
            maximum_pixels=self._maximum_pixels,
        )

    def _annotation_paths(self) -> Annotations:
        if not self._annotations:
            return self.find_annotations(self._root)
        named = source_folder.absolute(self._annotations)
        for path in (self._root / self._annotations, named):
            if path.is_file():
                return (path,)
        raise InputError(
            f"config.data.annotations: there is no file {self._annotations!r} in "
            f"{self._root}, nor {named}; set it to the file that lists the photos"
        )


def check_text(where: str, name: str, text: str) -> None:
    """Raises InputError if a text of JSON has NUL or half of a surrogate pair."""
    if "\0" in text:
        raise InputError(f"{where} has the character NUL in its {name}; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise InputError(
            f"{where} has a {name} with half a character ({half!r}), such as part of "
            "an emoji; remove it"
        ) from None


def check_split(where: str, split: str, splits: tuple[str, ...]) -> None:
    """Raises InputError if the split of a record is not one of `splits`."""
    if split not in splits:
        raise InputError(
            f"{where} has the split {excerpt(split)}; expected one of "
            f"{', '.join(splits)}"
        )


def _check_options(data: ml_collections.ConfigDict) -> None:
    if not 0 <= data.allowed_missing <= 1:
        raise InputError(
            f"config.data.allowed_missing is {data.allowed_missing!r}; expected a "
            "share from 0 to 1"
        )
    if data.maximum_pixels < 1:
        raise InputError(
            f"config.data.maximum_pixels is {data.maximum_pixels!r}; expected at "
            "least 1"
        )


def _fingerprint(splits: dict[str, list[Photo]]) -> list:
    """Returns the number of photos and a hash of their paths, sizes and times."""
    digest, count = hashlib.sha256(), 0
    for listed in splits.values():
        for photo in listed:
            entry = f"{photo.path}\0{photo.status}\n"
            digest.update(entry.encode(errors="surrogateescape"))
            count += photo.status is not None
    return [count, digest.hexdigest()]
