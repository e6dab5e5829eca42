"""Prepares datasets atomically, once, and opens prepared datasets."""

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Protocol

import ml_collections
import requests
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format

from vse_jax import files, storage
from vse_jax.data import local_copy
from vse_jax.data.datasets import source_folder
from vse_jax.data.datasets.coco_captions import CocoCaptionsSource
from vse_jax.data.datasets.extracted_features import (
    check_features,
    incomplete,
    is_extracted,
)
from vse_jax.data.datasets.image_folder import ImageFolderSource
from vse_jax.data.datasets.karpathy_images import KarpathyImagesSource
from vse_jax.data.datasets.region_features import RegionFeaturesSource
from vse_jax.data.datasets.shapes import ShapesSource
from vse_jax.errors import (
    InputError,
    ReportedError,
    one_line,
    unreadable,
    write_advice,
)

logger = logging.getLogger(__name__)

_FILE_FORMAT = "array_record"


class Source(Protocol):
    """The source that `config.data` describes and a dataset is prepared from."""

    builder_name: str
    version: tfds.core.Version
    config_name: str | None  # folder of the prepared data; None if there is no source
    downloads: bool  # whether TFDS downloads the source

    def fingerprint(self) -> dict | None:
        """Returns a value that changes with the source; None if it cannot change."""

    def check_source(self) -> None:
        """Raises InputError if the source cannot be prepared."""

    def splits(self) -> tuple[str, ...] | None:
        """Returns the splits to prepare; None if only TFDS knows them."""

    def builder(
        self, data_dir: epath.Path, version: tfds.core.Version
    ) -> tfds.core.DatasetBuilder:
        """Returns a builder that can prepare the data."""

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Raises InputError if prepared data does not match the config."""


_SOURCES = {
    "region_features": RegionFeaturesSource,
    "karpathy_images": KarpathyImagesSource,
    "image_folder": ImageFolderSource,
    "coco_captions": CocoCaptionsSource,
    "shapes": ShapesSource,
}
_DOWNLOAD_ERRORS = (
    requests.RequestException,
    tfds.download.DownloadError,
    tfds.download.download_manager.NonMatchingChecksumError,
)


def prepare(
    data: ml_collections.ConfigDict, required_splits: Sequence[str] = ()
) -> tfds.core.DatasetBuilder:
    """Opens a dataset, and prepares it in `config.data.data_dir` if necessary.

    If the source files have changed, a new version is prepared beside the old one,
    which other programs may be reading. Incomplete data is not regarded as prepared. On
    a local disk, only one process prepares and the others wait. On a remote disk,
    prepare the data before you start several processes.

    Args:
      data: `config.data`.
      required_splits: splits, or sums of splits, that the source must have.

    Returns:
      A builder whose `as_data_source(split)` yields the images in the order of the
      source. Each is a dict of `image_id` (bytes), `captions` (array of bytes) and
      one of `regions` (float16 `[regions, dim]`), `feature` (`[dim]`) and `image`
      (uint8 `[height, width, 3]`). Datasets that TFDS prepares have their own order
      and field names.

    Raises:
      InputError: if the builder is unknown; if there is neither prepared data nor a
        valid source; if a required split is missing; if a source file is invalid; if
        extracted features are incomplete; or if the prepared data does not match the
        config.
      ReportedError: if the data cannot be written.
    """
    if is_extracted(data):
        return local_copy.locate(_open_extracted(data), data.local_copy)
    source, data_dir = _make_source(data), _data_dir(data)
    prepared = _open_if_fresh(source, data_dir)
    if prepared is not None:
        return local_copy.locate(prepared, data.local_copy)
    source.check_source()  # before files are deleted or written
    _check_splits(data, source, required_splits)
    with _reporting(data_dir), files.sole_writer(data_dir):
        # Another process may have prepared the data in the meantime.
        prepared = _open_if_fresh(source, data_dir)
        if prepared is None:
            prepared = _prepare(source, data_dir)
    return local_copy.locate(prepared, data.local_copy)


def _open_extracted(data: ml_collections.ConfigDict) -> tfds.core.DatasetBuilder:
    """Opens a root that is a prepared dataset itself."""
    root = source_folder.absolute(data.root)
    builder = _open_complete(root)
    if builder is None:
        raise incomplete(root)
    check_features(builder)
    return builder


def _make_source(data: ml_collections.ConfigDict) -> Source:
    if data.builder not in _SOURCES:
        raise InputError(
            f"config.data.builder is {data.builder!r}; expected one of "
            f"{', '.join(_SOURCES)}"
        )
    if data.name and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", data.name):
        raise InputError(
            f"config.data.name is {data.name!r}; expected a folder name of letters, "
            "digits, '_', '-' and '.'"
        )
    return _SOURCES[data.builder](data)


def _data_dir(data: ml_collections.ConfigDict) -> epath.Path:
    if not data.data_dir:
        raise InputError(
            "config.data.data_dir is empty; set it to the folder for prepared data"
        )
    return epath.Path(data.data_dir).expanduser()


def _check_splits(data, source, required_splits):
    splits = source.splits()
    if splits is None:
        return
    for split in required_splits:
        for part in split.split("+"):
            if part not in splits:
                raise InputError(
                    f"{data.root or data.builder}: there is no split {part!r}; the "
                    f"source has {', '.join(splits)}; set config.data.train_split and "
                    "config.data.validation_split to some of these, or add the split "
                    "to the source"
                )


def _config_directory(source: Source, data_dir: epath.Path) -> epath.Path:
    """Returns the folder with all versions of the prepared data."""
    return data_dir / source.builder_name / source.config_name


def _directory(
    source: Source, data_dir: epath.Path, version: tfds.core.Version
) -> epath.Path:
    """Returns the folder of a version of the prepared data."""
    return _config_directory(source, data_dir) / str(version)


def _versions(source: Source, data_dir: epath.Path) -> list[tfds.core.Version]:
    """Returns the existing versions, newest first; they differ in their patch."""
    if source.config_name is None:
        return []
    prefix = f"{source.version.major}.{source.version.minor}."
    patches = [
        int(name.removeprefix(prefix))
        for name in _names_in(_config_directory(source, data_dir))
        if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()
    ]
    return [
        tfds.core.Version(f"{prefix}{patch}") for patch in sorted(patches, reverse=True)
    ]


def _open_complete(directory: epath.Path) -> tfds.core.DatasetBuilder | None:
    """Returns a builder that reads a folder; None if the data is incomplete."""
    present = _names_in(directory)
    if not {"dataset_info.json", "features.json"} <= present:
        return None
    try:
        builder = local_copy.open_dataset(directory)
    except (ValueError, json_format.Error):  # damaged JSON
        return None
    expected = {
        epath.Path(path).name
        for split in builder.info.splits.values()
        for path in split.filepaths
    }
    # The final rename is not atomic on an object store.
    if not expected or not expected <= present:
        return None
    return builder


def _names_in(directory: epath.Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise unreadable(directory, error) from None


def _is_stale(source: Source, prepared: tfds.core.DatasetBuilder) -> bool:
    fingerprint = source.fingerprint()
    if fingerprint is None:
        return False
    return fingerprint != dict(prepared.info.metadata or {}).get("sources")


def _open_if_fresh(
    source: Source, data_dir: epath.Path
) -> tfds.core.DatasetBuilder | None:
    for version in _versions(source, data_dir):
        prepared = _open_complete(_directory(source, data_dir, version))
        if prepared is not None and not _is_stale(source, prepared):
            source.check_prepared(prepared)
            return prepared
    return None


def _prepare(source: Source, data_dir: epath.Path) -> tfds.core.DatasetBuilder:
    parent = _config_directory(source, data_dir)
    _remove_debris(parent)
    version = _next_version(source, data_dir)
    try:
        _write(source, data_dir, version)
    except BaseException:
        _remove_empty(parent, data_dir)
        raise
    directory = _directory(source, data_dir, version)
    builder = _open_complete(directory)
    counts = (f"{name} {s.num_examples}" for name, s in builder.info.splits.items())
    logger.info("prepared %s: %s", directory, ", ".join(counts))
    return builder


def _next_version(source: Source, data_dir: epath.Path) -> tfds.core.Version:
    """Returns the version to prepare; a complete version is never replaced."""
    latest = None
    for version in reversed(_versions(source, data_dir)):
        directory = _directory(source, data_dir, version)
        if _open_complete(directory) is None:
            logger.info("removing incomplete data: %s", directory)
            directory.rmtree()
        else:
            latest = version
    if latest is None:
        return source.version
    logger.info(
        "the source files of %s have changed: preparing a new version beside it; "
        "delete the old version when no run reads it any more",
        _directory(source, data_dir, latest),
    )
    return tfds.core.Version(f"{latest.major}.{latest.minor}.{latest.patch + 1}")


def _write(source: Source, data_dir: epath.Path, version: tfds.core.Version) -> None:
    if files.is_local(data_dir):
        _write_locally(source, data_dir, version, data_dir / "downloads")
        return
    # ArrayRecord files can only be written to local disks.
    downloads = epath.Path(files.absolute(local_copy.DEFAULT)) / "downloads"
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder)
        try:
            _write_locally(source, local, version, downloads)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise ReportedError(
                f"{data_dir}: the dataset cannot be written to the temporary folder "
                f"{folder} first: {reason}; {write_advice(error)}, or set TMPDIR to a "
                "folder on a larger disk"
            ) from error
        files.upload_folder(
            _directory(source, local, version), _directory(source, data_dir, version)
        )


def _write_locally(source, data_dir, version, downloads) -> None:
    builder = source.builder(data_dir, version)
    with files.reporting_array_record():
        if source.downloads:
            _download_and_prepare(builder, downloads)
        else:
            _prepare_silently(builder)


def _download_and_prepare(
    builder: tfds.core.DatasetBuilder, download_dir: epath.Path
) -> None:
    """Lets TFDS download and prepare; complete files are not downloaded again."""
    try:
        builder.download_and_prepare(
            download_dir=download_dir, file_format=_FILE_FORMAT
        )
    except _DOWNLOAD_ERRORS as error:
        raise InputError(
            f"{builder.name}: cannot be downloaded to {download_dir} "
            f"({one_line(error)}); check the network and prepare again, or set "
            "config.data.builder to karpathy_images if you have the photos"
        ) from error


def _prepare_silently(builder: tfds.core.DatasetBuilder) -> None:
    # TFDS prints messages about downloads and creates a folder for them.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory() as download_dir,
    ):
        builder.download_and_prepare(
            download_dir=download_dir, file_format=_FILE_FORMAT
        )


def _remove_debris(directory: epath.Path) -> None:
    """Removes the files of preparations that were interrupted."""
    for name in _names_in(directory):
        if name.startswith("incomplete."):
            logger.info("removing files of an interrupted run: %s", name)
            (directory / name).rmtree()


def _remove_empty(directory: epath.Path, data_dir: epath.Path) -> None:
    """Removes a folder and its parents below `data_dir` while they are empty."""
    while directory != data_dir and not _names_in(directory):
        if directory.exists():
            directory.rmdir()
        directory = directory.parent


@contextlib.contextmanager
def _reporting(data_dir: epath.Path) -> Iterator[None]:
    """Reports a full or read-only disk in one line."""
    try:
        with storage.as_os_errors():
            yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ReportedError(
            f"{data_dir}: the dataset cannot be written there: {reason}; "
            f"{write_advice(error)}, or set config.data.data_dir"
        ) from error
