"""The open files of one shard of a gallery."""

import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from vse_jax import files
from vse_jax.array_files import DAMAGED
from vse_jax.errors import unreadable
from vse_jax.gallery.local_files import check_size, damaged, local_path
from vse_jax.gallery.manifest import GalleryDescription, Shard
from vse_jax.gallery.rows import SCHEMA


class OpenShard:
    """The open files of a shard; remote files are copied when they are needed."""

    def __init__(
        self,
        folder: epath.Path,
        shard: Shard,
        description: GalleryDescription,
        copies: str = "",
    ):
        """Checks the files and opens them.

        Args:
          folder: folder of the gallery.
          shard: one of its shards.
          description: what its embeddings are.
          copies: see `local_files.local_path`.

        Raises:
          InputError: if a file is absent, or damaged as far as its size and its first
            bytes show.
        """
        self._folder = folder
        self._shard = shard
        self._description = description
        self._copies = copies
        self._mapped = self._parquet = None
        self._lock = threading.Lock()
        for file in shard.files:
            check_size(folder, file)
        if files.is_local(folder):  # later the files may be deleted
            self.embeddings()
            self._open_table()

    def embeddings(self) -> np.ndarray:
        """Returns the embeddings, `[rows, embed]`, as a memory map."""
        if self._mapped is None:
            self._mapped = self._map()
        return self._mapped

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Reads some columns of the table."""
        return self._read(lambda parquet: parquet.read(columns))

    def group(self, group: int) -> pa.Table:
        """Reads one group of `rows.GROUP_ROWS` rows of the table."""
        return self._read(lambda parquet: parquet.read_row_group(group))

    def _read(self, read: Callable[[pq.ParquetFile], pa.Table]) -> pa.Table:
        try:
            with self._lock:  # a Parquet file is read by one thread at a time
                return read(self._open_table())
        except (pa.ArrowException, OSError):
            raise damaged(self._folder / self._shard.table.name) from None

    def _map(self) -> np.ndarray:
        file = self._shard.embeddings
        path = local_path(self._folder, file, self._copies)
        try:
            array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise unreadable(path, error) from None
        except DAMAGED:
            raise damaged(self._folder / file.name) from None
        shape = self._shard.rows, self._description.dim
        if array.shape != shape or array.dtype != self._description.dtype:
            raise damaged(self._folder / file.name)
        return np.asarray(array)  # parts of `np.memmap` take longer to create

    def _open_table(self) -> pq.ParquetFile:
        if self._parquet is not None:
            return self._parquet
        file = self._shard.table
        path = local_path(self._folder, file, self._copies)
        try:
            parquet = pq.ParquetFile(pa.memory_map(os.fspath(path)))
        except pa.ArrowException:
            raise damaged(self._folder / file.name) from None
        except OSError as error:
            raise unreadable(path, error) from None
        rows, names = parquet.metadata.num_rows, parquet.schema_arrow.names
        if rows != self._shard.rows or names != SCHEMA.names:
            raise damaged(self._folder / file.name)
        self._parquet = parquet
        return parquet
