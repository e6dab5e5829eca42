"""Builds the index of a gallery."""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np

from vse_jax import files
from vse_jax.data.sampling import evenly_spaced
from vse_jax.errors import InputError, reporting_writes
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.local_files import digest_of
from vse_jax.gallery.manifest import File
from vse_jax.progress import Progress
from vse_jax.search import exact, faiss_files
from vse_jax.search.hubness import Hubness
from vse_jax.search.index import Index, IndexDescription, write_description

logger = logging.getLogger(__name__)

WANTED_RECALL = 0.95
RECALL_AT = 10  # results of which the recall is measured
SAMPLE_QUERIES = 256  # that the recall is measured on
FILE_BYTES = 2**29  # of the vectors in a file of an index, 2 bytes for each dimension
_ADDED_ROWS = 2**15  # rows that are added at a time


def build(
    gallery: Gallery,
    kind: str,
    *,
    hubness: Hubness | None,
    queries: np.ndarray,
) -> IndexDescription:
    """Builds the index of a gallery and writes it to the gallery's folder.

    Searches the index with more and more effort until it finds `WANTED_RECALL` of the
    rows that exact search finds.

    Args:
      gallery: a gallery that no `GalleryWriter` has open.
      kind: one of `faiss_files.KINDS`.
      hubness: correction of the gallery, which the index will hold; None for none.
      queries: embeddings of typical queries, `[queries, embed]`, on which the recall is
        measured.

    Returns:
      The index's description, with its recall.

    Raises:
      InputError: if the gallery cannot have an index, or if faiss is not installed.
      TrainingError: if the index cannot be written.
    """
    _check(gallery, kind)
    queries = queries[evenly_spaced(SAMPLE_QUERIES, len(queries))].astype(np.float32)
    with files.sole_writer(gallery.folder), reporting_writes(gallery.folder):
        parts = tuple(_write_parts(gallery, kind, hubness))
        fingerprint = hubness.fingerprint if hubness else ""
        description = IndexDescription(
            kind, gallery.fingerprint, fingerprint, 0, 0.0, parts
        )
        description = _tuned(
            Index(gallery, description, hubness), gallery, hubness, queries
        )
        write_description(description, gallery.folder)
    return description


def _check(gallery, kind):
    if kind not in faiss_files.KINDS:
        raise InputError(
            f"config.gallery.index is {kind!r}; expected "
            f"{' or '.join(faiss_files.KINDS)}"
        )
    if gallery.similarity != "cosine":
        raise InputError(
            f"{gallery.folder}: its model has the similarity {gallery.similarity!r}, "
            "which is not an inner product, so it cannot have an index; set "
            "config.gallery.index to '' and search it exactly"
        )
    if not gallery.rows:
        raise InputError(f"{gallery.folder}: is empty, so it cannot have an index")
    faiss_files.load_faiss()


def _write_parts(gallery, kind, hubness) -> Iterator[File]:
    """Writes the files of an index, each of some rows."""
    bias = hubness.bias if hubness else np.zeros(gallery.rows, np.float32)

    def vectors(rows):
        return faiss_files.pad(gallery.embeddings_at(rows), bias[rows])

    sample = evenly_spaced(faiss_files.training_count(gallery.rows), gallery.rows)
    logger.info("training the index on %s rows", f"{len(sample):,}")
    sample = vectors(sample)
    rows_of_file = max(1, FILE_BYTES // (2 * sample.shape[1]))
    index = faiss_files.create(kind, sample, faiss_files.list_count(gallery.rows))
    del sample
    names = faiss_files.new_names()
    with Progress("indexing", gallery.rows, "rows") as progress:
        for first in range(0, gallery.rows, rows_of_file):
            stop = min(first + rows_of_file, gallery.rows)
            path = gallery.folder / next(names)
            faiss_files.write(index, _blocks(vectors, first, stop, progress), path)
            yield File(path.name, files.size_and_time(path)[0], digest_of(path))


def _blocks(vectors, first, stop, progress) -> Iterator[np.ndarray]:
    for start in range(first, stop, _ADDED_ROWS):
        rows = np.arange(start, min(start + _ADDED_ROWS, stop))
        yield vectors(rows)
        progress.add(len(rows))


def _tuned(index: Index, gallery, hubness, queries) -> IndexDescription:
    """Returns the description of an index with the least effort that suffices."""
    bias = hubness.bias if hubness else None
    best = exact.search(queries, gallery, RECALL_AT, bias=bias).rows
    effort, most = 1, faiss_files.most_effort(index.description.kind, gallery.rows)
    while True:
        recall = index.recall(queries, best, effort)
        if recall >= WANTED_RECALL or effort >= most:
            return dataclasses.replace(index.description, effort=effort, recall=recall)
        effort = min(2 * effort, most)
