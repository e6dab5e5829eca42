"""Local copies of prepared datasets that are on an object store.

Random access to records over a network would be thousands of small requests. The files
of a split are therefore copied to a local folder when it is first read. All processes
of a machine share the copy, and later runs find it.
"""

import hashlib
import json
import logging
import os
import shutil

import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files, storage
from vse_jax.errors import InputError, ReportedError, one_line, write_advice

logger = logging.getLogger(__name__)

DEFAULT = "~/.cache/vse_jax"
_SPARE_BYTES = 2**28  # that remain free
_METADATA = (".json", ".txt")  # endings of the files besides the records


class RemoteDataset(tfds.core.read_only_builder.ReadOnlyBuilder):
    """A prepared dataset on an object store, whose records are read from a copy.

    `data_dir` and `info` are those of the object store.
    """

    local_copy = DEFAULT  # local folder for copies

    def as_data_source(self, split: str, **options):
        """Copies the files of a split, or of a sum of splits, and opens them.

        Raises:
          InputError: if the disk has too little space.
          ReportedError: if a file cannot be copied.
        """
        names = [
            epath.Path(path).name
            for part in split.split("+")
            for path in self.info.splits[part].filepaths
        ]
        folder = self._copy(split, names)
        return tfds.builder_from_directory(folder).as_data_source(split, **options)

    def _copy(self, split: str, names: list[str]) -> epath.Path:
        remote = epath.Path(self.data_dir)
        statuses = self._statuses()
        folder = self._folder(statuses)
        names += [name for name in statuses if name.endswith(_METADATA)]
        if not _missing(folder, names, statuses):
            return folder
        try:
            with files.sole_writer(folder):
                # Another process may have copied some of them.
                missing = _missing(folder, names, statuses)
                check_space(f"{remote}: the split {split!r}", folder, missing)
                gigabytes = sum(missing.values()) / 1e9
                logger.info("copying %s (%.2f GB) to %s", split, gigabytes, folder)
                storage.transfer(f"copying {split}", remote, folder, missing)
        except OSError as error:
            raise ReportedError(
                f"{remote} cannot be copied to {folder} "
                f"({error.strerror or one_line(error)}); {write_advice(error)}, or set "
                "config.data.local_copy to another folder"
            ) from error
        return folder

    def _statuses(self) -> dict[str, storage.SizeAndTime]:
        """Returns size and version of the files that make up the dataset, by name."""
        records = {
            epath.Path(path).name
            for split in self.info.splits.values()
            for path in split.filepaths
        }
        try:
            with storage.as_os_errors():
                found = storage.list_folder(epath.Path(self.data_dir))[0]
        except OSError as error:
            raise InputError(
                f"{self.data_dir}: cannot be read ({one_line(error)})"
            ) from error
        wanted = {n for n in found if n in records or n.endswith(_METADATA)}
        if records - wanted:
            raise InputError(
                f"{self.data_dir}: {min(records - wanted)} is missing; delete the "
                "folder and prepare the data again"
            )
        return {name: found[name] for name in sorted(wanted)}

    def _folder(self, statuses: dict[str, storage.SizeAndTime]) -> epath.Path:
        """Returns the folder of the copy, another one when any file has changed."""
        content = json.dumps([os.fspath(self.data_dir), statuses])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return epath.Path(files.absolute(self.local_copy)) / f"{self.name}-{digest}"


def open_dataset(directory: epath.Path) -> tfds.core.DatasetBuilder:
    """Opens a prepared dataset, local or remote; copies nothing.

    Raises:
      ValueError: if its metadata is damaged.
    """
    if files.is_local(directory):
        return tfds.builder_from_directory(directory)
    return RemoteDataset(builder_dir=directory)


def locate(builder: tfds.core.DatasetBuilder, folder: str) -> tfds.core.DatasetBuilder:
    """Sets the local folder for copies, `config.data.local_copy`; "" is the default.

    Args:
      builder: builder of any dataset; local datasets are not copied.
      folder: local folder.

    Returns:
      The builder.

    Raises:
      InputError: if the folder is not local.
    """
    if folder and not files.is_local(folder):
        raise InputError(
            f"config.data.local_copy is {folder!r}; expected a local folder"
        )
    if folder and isinstance(builder, RemoteDataset):
        builder.local_copy = folder
    return builder


def _missing(folder: epath.Path, names: list[str], statuses) -> dict[str, int]:
    """Returns the sizes of the files that are absent or of another size, by name."""
    sizes = {name: statuses[name][0] for name in names}
    return {
        name: size
        for name, size in sizes.items()
        if not os.path.isfile(folder / name) or os.path.getsize(folder / name) != size
    }


def check_space(what: str, folder: epath.Path, missing: dict[str, int]) -> None:
    """Checks that a disk has room for files.

    Args:
      what: what is copied, for the message.
      folder: local folder, which exists.
      missing: bytes of each file, by name.

    Raises:
      InputError: if the files would not leave some space.
    """
    needed, free = sum(missing.values()), shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise InputError(
            f"{what} has {needed / 1e9:.2f} GB to copy, but {folder.parent} has only "
            f"{free / 1e9:.2f} GB free, of which {_SPARE_BYTES / 1e9:.2f} GB remain "
            "free; free some space, or set config.data.local_copy to a folder on a "
            "larger disk"
        )
