"""Reads a gallery: embeddings by memory map, and the table of its rows."""

import bisect
import functools
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from vse_jax.errors import InputError
from vse_jax.gallery import manifest as manifests
from vse_jax.gallery.local_files import are_few, check_digest
from vse_jax.gallery.manifest import Manifest
from vse_jax.gallery.open_shard import OpenShard
from vse_jax.gallery.rows import GROUP_ROWS, SCHEMA, Record, record_of

BLOCK_ROWS = 4096
_GROUPS_KEPT = 64  # parts of tables that stay in memory


class Gallery:
    """A gallery, as it was when it was opened.

    A local gallery stays readable while another process changes it, since its files
    stay open.

    Attributes:
      folder: folder of the gallery.
      manifest: its shards and what its embeddings are.
      copies: local folder for copies of remote files.
    """

    def __init__(self, folder: epath.Path, manifest: Manifest, copies: str = ""):
        self.folder = folder
        self.manifest = manifest
        self.copies = copies
        counts = [shard.rows for shard in manifest.shards]
        self._starts = [0, *itertools.accumulate(counts)]
        self._shards = [
            OpenShard(folder, shard, manifest.description, copies)
            for shard in manifest.shards
        ]
        self._group = functools.lru_cache(_GROUPS_KEPT)(self._read_group)

    @classmethod
    def open(cls, folder: str | os.PathLike, copies: str = "") -> "Gallery":
        """Opens a gallery.

        Checks that all files have their sizes, and their digests unless the gallery is
        large, see `verify`. Remote files are checked when they are copied.

        Args:
          folder: local or `gs://`.
          copies: local folder for copies of remote files; "" for `~/.cache/vse_jax`.

        Raises:
          InputError: if the folder is not a gallery, or if a file is absent or damaged.
        """
        folder = epath.Path(folder).expanduser()
        path = manifests.path_of(folder)
        manifest = manifests.read(path)
        while True:
            try:
                return cls._open(folder, manifest, copies)
            except InputError:
                # An encoding may have replaced a shard since the manifest was read.
                before, manifest = manifest, manifests.read(path)
                if manifest == before:
                    raise

    @classmethod
    def _open(cls, folder, manifest, copies):
        gallery = cls(folder, manifest, copies)
        if are_few(folder, (f for shard in manifest.shards for f in shard.files)):
            gallery.verify()
        return gallery

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self.manifest.description.dim

    @property
    def dtype(self) -> np.dtype:
        """Type of the embeddings, float16 or float32."""
        return np.dtype(self.manifest.description.dtype)

    @property
    def similarity(self) -> str:
        """Similarity of the model, one of `similarity.SIMILARITIES`."""
        return self.manifest.description.similarity

    @property
    def content(self) -> str:
        """What was embedded: `images` or `captions`."""
        return self.manifest.description.content

    @property
    def model(self) -> str:
        """Fingerprint of the model."""
        return self.manifest.description.model

    @property
    def options(self) -> dict:
        """Options of the encoding."""
        return self.manifest.description.options

    @property
    def complete(self) -> bool:
        """Whether the last encoding ended; otherwise rows may be missing."""
        return self.manifest.complete

    @property
    def fingerprint(self) -> str:
        """Digest of the embeddings and of their order."""
        return self.manifest.fingerprint

    def verify(self) -> None:
        """Reads all files and checks their digests.

        Raises:
          InputError: if a file is damaged; names it.
        """
        for shard in self.manifest.shards:
            for file in shard.files:
                check_digest(self.folder, file)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
        """Yields all embeddings in order, `[n, embed]` with `n <= rows`.

        The arrays are parts of memory maps if the gallery is local. A block is shorter
        than `rows` only at the end of a shard.
        """
        for shard in self._shards:
            embeddings = shard.embeddings()
            for start in range(0, len(embeddings), rows):
                yield embeddings[start : start + rows]

    def embeddings_at(self, rows: Sequence[int]) -> np.ndarray:
        """Returns the embeddings of some rows, `[len(rows), embed]` in the stored type.

        Raises:
          IndexError: if there is no such row.
        """
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.dim), self.dtype)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise IndexError(f"rows of a gallery of {self.rows} rows")
        shards = np.searchsorted(self._starts, rows, "right") - 1
        for number in np.unique(shards):
            own = shards == number
            embeddings = self._shards[number].embeddings()
            found[own] = embeddings[rows[own] - self._starts[number]]
        return found

    def row(self, row: int) -> Record:
        """Returns what a row is; raises IndexError if there is no such row."""
        shard, row = self._place(row)
        group, row = divmod(row, GROUP_ROWS)
        return record_of(self._group(shard, group), row)

    def rows_at(self, rows: Sequence[int]) -> list[Record]:
        """Returns what some rows are; raises IndexError if there is no such row."""
        return [self.row(int(row)) for row in rows]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the table of all rows, see `rows.SCHEMA`.

        Args:
          columns: names of the columns; None for all.
        """
        fields = [f for f in SCHEMA if columns is None or f.name in columns]
        empty = pa.schema(fields).empty_table()
        return pa.concat_tables(
            [empty, *(shard.table(empty.column_names) for shard in self._shards)]
        )

    def position_of(self, row_id: str) -> int | None:
        """Returns the number of the row with an ID; None if there is none."""
        position = pc.index(self._ids, row_id).as_py()
        return None if position < 0 else position

    @functools.cached_property
    def _ids(self) -> pa.ChunkedArray:
        return self.table(["id"])["id"]

    def _read_group(self, shard: int, group: int) -> pa.Table:
        return self._shards[shard].group(group)

    def _place(self, row: int) -> tuple[int, int]:
        """Returns the number of a row's shard, and of the row in the shard."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of a gallery of {self.rows} rows")
        shard = bisect.bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]
