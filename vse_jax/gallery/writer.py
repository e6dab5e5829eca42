"""Writes galleries: adds rows, removes rows, and resumes after an interruption."""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from vse_jax import files, parallel, shared_folder
from vse_jax.errors import InputError, TrainingError, reporting_writes
from vse_jax.gallery import manifest as manifests
from vse_jax.gallery.gallery import BLOCK_ROWS, Gallery
from vse_jax.gallery.manifest import GalleryDescription, Manifest, Shard
from vse_jax.gallery.rows import Record, table_of
from vse_jax.gallery.shard_files import ShardFiles

logger = logging.getLogger(__name__)

SHARD_BYTES = 2**26  # of the embeddings of a shard
SECONDS_BETWEEN_SHARDS = 30.0  # a killed run repeats at most this much work


class Changes(NamedTuple):
    """How a source differs from a gallery.

    Attributes:
      missing: positions in the source of the rows to embed, ascending int64: they are
        not in the gallery, or their size or modification time differs.
      outdated: IDs of the gallery's rows to drop: they are not in the source, or they
        changed.
    """

    missing: np.ndarray
    outdated: pa.Array


class GalleryWriter:
    """Adds rows to a gallery and removes some; a context manager.

    A shard is added when it is full or half a minute old. What a killed run wrote is a
    gallery, which is not `complete`, and the next run continues it. One process at a
    time changes a gallery; others wait for it.

    With several hosts, all hosts make the same calls, but each writes its own rows. The
    rows of the others are a part of the gallery when the context ends.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        description: GalleryDescription,
        *,
        shard_bytes: int = SHARD_BYTES,
        copies: str = "",
    ):
        """Changes nothing yet.

        Args:
          folder: folder of the gallery, local or `gs://`, which may not exist.
          description: what the embeddings are; that of an existing gallery.
          shard_bytes: maximum size of the embeddings of a shard.
          copies: local folder for copies of remote files; "" for `~/.cache/vse_jax`.
        """
        self._folder = epath.Path(folder).expanduser()
        self._description = description
        self._copies = copies
        rows = max(1, shard_bytes // description.row_bytes)
        # Whole blocks, since a search pads the last block of a shard.
        self._shard_rows = rows // BLOCK_ROWS * BLOCK_ROWS or rows
        self._host = parallel.this_host()["process_index"]
        self._lock = contextlib.ExitStack()
        self._embeddings: list[np.ndarray] = []
        self._records: list[Record] = []

    def __enter__(self) -> "GalleryWriter":
        """Opens the gallery or creates it.

        Raises:
          InputError: if the folder has other files, or a gallery of another
            description, or a damaged file.
          TrainingError: if the gallery cannot be written.
        """
        with contextlib.ExitStack() as lock, reporting_writes(self._folder):
            if self._host == 0:
                lock.enter_context(files.sole_writer(self._folder))
                self._manifest = self._open()
            parallel.wait_for_hosts("opened the gallery")
            shared_folder.check("--gallery", self._folder)
            if self._host:
                self._manifest = Manifest(self._description, complete=False)
            self._files = self._shard_files()
            self._gallery = Gallery.open(self._folder, self._copies)
            self._last_shard = time.monotonic()
            self._lock = lock.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        with self._lock:
            if error is None:
                self._finish()

    def changes(
        self,
        ids: Sequence[str],
        sizes: Sequence[int | None] | None = None,
        modified: Sequence[float | None] | None = None,
    ) -> Changes:
        """Compares a source with the gallery as it was when it was opened.

        Args:
          ids: IDs of all rows of the source.
          sizes: sizes of their files, see `rows.Record`.
          modified: modification times of their files.

        Raises:
          InputError: if two rows of the source have the same ID.
        """
        columns = [[None] * len(ids) if c is None else c for c in (sizes, modified)]
        source = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "size": pa.array(columns[0], pa.int64()),
                "modified": pa.array(columns[1], pa.float64()),
            }
        )
        _check_unique(source["id"], self._folder)
        known = self._gallery.table(source.column_names)
        position = pc.index_in(source["id"], value_set=known["id"])
        found = known.take(position.combine_chunks())
        same = pc.is_valid(position)
        for name in ("size", "modified"):
            same = pc.and_(same, _equal(source[name], found[name]))
        unchanged = source["id"].filter(same)
        outdated = pc.invert(pc.is_in(known["id"], value_set=unchanged))
        return Changes(
            np.flatnonzero(~same.to_numpy()),
            known["id"].filter(outdated).combine_chunks(),
        )

    def write(self, embeddings: np.ndarray, records: Sequence[Record]) -> None:
        """Appends rows.

        Args:
          embeddings: `[rows, embed]` float.
          records: what the rows are. Their IDs are not yet in the gallery.

        Raises:
          ValueError: if `embeddings` has other rows than `records`, or other dimensions
            than the gallery.
          InputError: if a text of a record is not valid Unicode.
          TrainingError: if an embedding is not finite, or if the gallery cannot be
            written.
        """
        if np.shape(embeddings) != (len(records), self._description.dim):
            raise ValueError(f"{np.shape(embeddings)} for {len(records)} records")
        with np.errstate(over="ignore"):
            stored = np.array(embeddings, self._description.dtype)
        self._check_finite(stored, records)
        self._embeddings.append(stored)
        self._records += records
        if len(self._records) >= self._shard_rows:
            whole = len(self._records) // self._shard_rows * self._shard_rows
            self._write_shards(whole)
        if time.monotonic() - self._last_shard > SECONDS_BETWEEN_SHARDS:
            self.flush()

    def _check_finite(self, stored, records):
        finite = np.isfinite(stored).all(1)
        if not finite.all():
            raise TrainingError(
                f"the embedding of {records[finite.argmin()].id!r} is NaN or beyond "
                f"the range of {self._description.dtype}; use another checkpoint, or "
                "write the gallery as float32"
            )

    def flush(self) -> None:
        """Adds a shard of the rows that were written so far."""
        if self._records:
            self._write_shards(len(self._records))

    def _write_shards(self, rows: int) -> None:
        """Writes the first rows that are not written yet."""
        embeddings = np.concatenate(self._embeddings)
        for start in range(0, rows, self._shard_rows):
            part = slice(start, min(rows, start + self._shard_rows))
            table = table_of(self._records[part])
            with reporting_writes(self._folder):
                shard = self._files.write([embeddings[part]], table)
                self._publish([*self._manifest.shards, shard])
        self._embeddings = [embeddings[rows:].copy()]
        self._records = self._records[rows:]
        self._last_shard = time.monotonic()

    def drop(self, ids: Iterable[str]) -> None:
        """Removes rows; IDs that the gallery does not have are ignored.

        Raises:
          TrainingError: if the gallery cannot be written.
        """
        self.flush()
        if self._host == 0:
            with reporting_writes(self._folder):
                self._drop(pa.array(ids, pa.string()))
        parallel.wait_for_hosts("dropped rows of the gallery")

    def _drop(self, ids: pa.Array) -> None:
        for shard in self._manifest.shards if len(ids) else ():
            dropped = pc.is_in(self._files.ids(shard), value_set=ids).to_numpy()
            if dropped.any():
                new = [] if dropped.all() else [self._files.keep_rows(shard, ~dropped)]
                self._replace([shard], new)

    def _shard_files(self) -> ShardFiles:
        return ShardFiles(self._folder, self._description, self._host, self._copies)

    def _replace(self, old: Sequence[Shard], new: Sequence[Shard]) -> None:
        """Replaces consecutive shards, first in the manifest."""
        shards = list(self._manifest.shards)
        first = shards.index(old[0])
        shards[first : first + len(old)] = new
        self._publish(shards)
        self._files.delete(file.name for shard in old for file in shard.files)

    def _publish(self, shards: Sequence[Shard], complete: bool = False) -> None:
        manifest = dataclasses.replace(
            self._manifest, shards=tuple(shards), complete=complete
        )
        manifests.write(manifest, manifests.path_of(self._folder, self._host))
        self._manifest = manifest

    def _open(self) -> Manifest:
        """Opens or creates the gallery on the primary host, and tidies the folder."""
        path = manifests.path_of(self._folder)
        if path.exists():
            manifest = self._read(path)
        else:
            self._check_empty()
            manifest = Manifest(self._description, complete=False)
        shards = self._present([*manifest.shards, *self._shards_of_other_hosts()])
        self._manifest = manifest
        if tuple(shards) != manifest.shards or not path.exists():
            self._publish(shards)
        return self._tidy()

    def _tidy(self) -> Manifest:
        """Deletes what a killed run left."""
        for path in manifests.paths_of_other_hosts(self._folder):
            path.unlink()
        shard_files = self._shard_files()
        shard_files.delete(shard_files.unlisted(self._manifest.shards))
        return self._manifest

    def _read(self, path: epath.Path) -> Manifest:
        manifest = manifests.read(path)
        manifests.check_same(manifest.description, self._description, self._folder)
        return manifest

    def _check_empty(self) -> None:
        names = manifests.names_in(self._folder)
        others = [name for name in names if not name.startswith(files.UNFINISHED)]
        if others:
            raise InputError(
                f"{self._folder}: is not a gallery and has other files, such as "
                f"{min(others)}; choose a new or empty folder for --gallery"
            )

    def _shards_of_other_hosts(self) -> list[Shard]:
        paths = manifests.paths_of_other_hosts(self._folder)
        return [shard for path in paths for shard in self._read(path).shards]

    def _present(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns each shard once, without those whose files the user deleted."""
        names = manifests.names_in(self._folder)
        present = []
        for shard in dict.fromkeys(shards):
            absent = [file.name for file in shard.files if file.name not in names]
            if absent:
                logger.warning(
                    "%s: %s is missing, so its %s rows are encoded again",
                    self._folder,
                    absent[0],
                    f"{shard.rows:,}",
                )
            else:
                present.append(shard)
        return present

    def _finish(self) -> None:
        """Adds the last rows and, on the primary host, those of the other hosts."""
        self.flush()
        parallel.wait_for_hosts("wrote the gallery")
        if self._host == 0:
            with reporting_writes(self._folder):
                self._merge()
        parallel.wait_for_hosts("completed the gallery")

    def _merge(self) -> None:
        shards = [*self._manifest.shards, *self._shards_of_other_hosts()]
        if tuple(shards) != self._manifest.shards:
            self._publish(shards)
        self._tidy()
        for group in self._small_neighbors():
            self._replace(group, [self._files.join(group)])
        if not self._manifest.complete:
            self._publish(self._manifest.shards, complete=True)

    def _small_neighbors(self) -> list[list[Shard]]:
        """Returns groups of consecutive shards that fit into one."""
        groups: list[list[Shard]] = []
        for shard in self._manifest.shards:
            if groups and self._fits(groups[-1], shard):
                groups[-1].append(shard)
            else:
                groups.append([shard])
        return [group for group in groups if len(group) > 1]

    def _fits(self, group, shard):
        return sum(s.rows for s in group) + shard.rows <= self._shard_rows


def _check_unique(ids: pa.ChunkedArray, folder: epath.Path) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    raise InputError(
        f"{folder}: two rows of the source have the ID {twice[0].as_py()!r}; give each "
        "row its own"
    )


def _equal(source: pa.ChunkedArray, found: pa.ChunkedArray) -> pa.ChunkedArray:
    """Compares two columns; two absent values are equal."""
    equal = pc.fill_null(pc.equal(source, found), False)
    return pc.or_(equal, pc.and_(pc.is_null(source), pc.is_null(found)))
