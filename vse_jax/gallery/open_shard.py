"""Opens and checks the files of one shard of a gallery."""

import hashlib
import io
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, unreadable
from vse_jax.gallery.manifest import ENCODE_AGAIN, Description, File, Shard
from vse_jax.gallery.rows import SCHEMA

_READ_BYTES = 2**20


class OpenShard:
    """The open files of a shard; remote files are read when they are needed."""

    def __init__(self, folder: epath.Path, shard: Shard, description: Description):
        """Opens the files.

        Raises:
          InputError: if a file is absent, or damaged as far as its size and its first
            bytes show.
        """
        self._folder = folder
        self._shard = shard
        self._shape = shard.rows, description.dim
        self._dtype = np.dtype(description.dtype)
        for file in shard.files:
            check_size(folder, file)
        self._mapped = self._parquet = None
        if files.is_local(folder):
            self._mapped = self._load_embeddings()
            self._parquet = self._open_table()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._shard.rows

    def embeddings(self) -> np.ndarray:
        """Returns the embeddings, `[rows, dim]`, of local files as a memory map."""
        return self._load_embeddings() if self._mapped is None else self._mapped

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Reads some columns of the table."""
        return self._read(lambda parquet: parquet.read(columns))

    def group(self, group: int) -> pa.Table:
        """Reads one group of `rows.GROUP_ROWS` rows of the table."""
        return self._read(lambda parquet: parquet.read_row_group(group))

    def _read(self, read) -> pa.Table:
        try:
            return read(self._parquet or self._open_table())
        except (pa.ArrowException, OSError):
            raise damaged(self._folder / self._shard.table.name) from None

    def _load_embeddings(self) -> np.ndarray:
        path = self._folder / self._shard.embeddings.name
        try:
            if files.is_local(path):
                array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
            else:
                content = io.BytesIO(path.read_bytes())
                array = np.load(content, allow_pickle=False)
        except OSError as error:
            raise unreadable(path, error) from None
        except (ValueError, EOFError):
            raise damaged(path) from None
        if array.shape != self._shape or array.dtype != self._dtype:
            raise damaged(path)
        return np.asarray(array)  # parts of `np.memmap` take longer to create

    def _open_table(self) -> pq.ParquetFile:
        path = self._folder / self._shard.table.name
        try:
            if files.is_local(path):
                source = pa.memory_map(os.fspath(path))
            else:
                source = pa.BufferReader(path.read_bytes())
            parquet = pq.ParquetFile(source)
        except pa.ArrowException:
            raise damaged(path) from None
        except OSError as error:
            raise unreadable(path, error) from None
        names = parquet.schema_arrow.names
        if parquet.metadata.num_rows != self.rows or names != SCHEMA.names:
            raise damaged(path)
        return parquet


def check_size(folder: epath.Path, file: File) -> None:
    """Checks that a file exists and has its size.

    Raises:
      InputError: if not; names the file.
    """
    path = folder / file.name
    try:
        size, _ = files.size_and_time(path)
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; {ENCODE_AGAIN} to replace it") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if size != file.bytes:
        raise damaged(path)


def check_digest(folder: epath.Path, file: File) -> None:
    """Reads a file and checks its digest.

    Raises:
      InputError: if it is damaged; names the file.
    """
    path, digest = folder / file.name, hashlib.sha256()
    try:
        with path.open("rb") as opened:
            while content := opened.read(_READ_BYTES):
                digest.update(content)
    except OSError as error:
        raise unreadable(path, error) from None
    if digest.hexdigest() != file.sha256:
        raise damaged(path)


def damaged(path: epath.Path) -> InputError:
    """Returns an error that says that a file of a shard is damaged."""
    return InputError(f"{path}: is damaged; delete this file and {ENCODE_AGAIN}")
