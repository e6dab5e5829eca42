"""Writes and deletes the files of shards."""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from etils import epath

from vse_jax import files
from vse_jax.gallery import manifest as manifests
from vse_jax.gallery.manifest import File, GalleryDescription, Shard
from vse_jax.gallery.open_shard import OpenShard
from vse_jax.gallery.rows import SCHEMA, to_bytes

_PART_ROWS = 4096  # rows that are read at a time from a shard that is written anew


class ShardFiles:
    """Writes shards under names that no shard had before."""

    def __init__(
        self,
        folder: epath.Path,
        description: GalleryDescription,
        host: int,
        copies: str,
    ):
        """Finds the names that are in use.

        Args:
          folder: existing folder of the gallery.
          description: what the embeddings are.
          host: index of this host, which is a part of the names of other hosts than 0.
          copies: local folder for copies of remote files.
        """
        self._folder = folder
        self._description = description
        self._copies = copies
        self._prefix = f"{host}-" if host else ""
        pattern = re.compile(rf"\D*-{self._prefix}(\d+)\.\w+")
        matches = map(pattern.fullmatch, manifests.names_in(folder))
        self._next = 1 + max((int(match[1]) for match in matches if match), default=-1)

    def write(self, embeddings: Sequence[np.ndarray], table: pa.Table) -> Shard:
        """Writes a shard; no file remains if it fails.

        Args:
          embeddings: parts of the embeddings, `[n, embed]` in the type of the gallery.
          table: of all their rows.

        Raises:
          OSError: if it cannot be written.
        """
        number = f"{self._prefix}{self._next:05}"
        self._next += 1
        array = self._folder / f"embeddings-{number}.npy"
        rows = self._folder / f"rows-{number}.parquet"
        try:
            return Shard(
                len(table),
                _write_file(array, self._npy_parts(embeddings, len(table))),
                _write_file(rows, [to_bytes(table)]),
            )
        except BaseException:
            with contextlib.suppress(OSError):
                array.unlink(missing_ok=True)
            raise

    def _npy_parts(self, embeddings, rows) -> Iterator[memoryview]:
        header, dtype = io.BytesIO(), np.dtype(self._description.dtype)
        fields = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (rows, self._description.dim),
        }
        np.lib.format.write_array_header_1_0(header, fields)
        yield header.getbuffer()
        for part in embeddings:
            yield memoryview(np.ascontiguousarray(part)).cast("B")

    def keep_rows(self, shard: Shard, kept: np.ndarray) -> Shard:
        """Writes a shard with some rows of another, `kept` is `[rows]` bool."""
        opened = self._open(shard)
        embeddings = opened.embeddings()
        parts = (
            embeddings[start : start + _PART_ROWS][kept[start : start + _PART_ROWS]]
            for start in range(0, len(kept), _PART_ROWS)
        )
        table = opened.table(SCHEMA.names).filter(pa.array(kept))
        return self.write([part for part in parts if len(part)], table)

    def join(self, shards: Sequence[Shard]) -> Shard:
        """Writes one shard with the rows of several."""
        opened = [self._open(shard) for shard in shards]
        tables = [shard.table(SCHEMA.names) for shard in opened]
        return self.write(
            [shard.embeddings() for shard in opened], pa.concat_tables(tables)
        )

    def ids(self, shard: Shard) -> pa.ChunkedArray:
        """Returns the IDs of a shard's rows."""
        return self._open(shard).table(["id"])["id"]

    def _open(self, shard: Shard) -> OpenShard:
        return OpenShard(self._folder, shard, self._description, self._copies)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def unlisted(self, shards: Iterable[Shard]) -> list[str]:
        """Returns the names of unfinished files, and of shards not in `shards`."""
        listed = {file.name for shard in shards for file in shard.files}
        return [
            name
            for name in manifests.names_in(self._folder) - listed
            if manifests.is_shard_file(name) or name.startswith(files.UNFINISHED)
        ]


def _write_file(path: epath.Path, parts: Iterable[bytes | memoryview]) -> File:
    digest, size = hashlib.sha256(), 0
    # `shared` deletes what was written when the disk is full.
    with files.unfinished(path, shared=True) as other, other.open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
    return File(path.name, size, digest.hexdigest())
