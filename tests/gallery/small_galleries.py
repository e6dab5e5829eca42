"""Galleries of a few rows, and what they should contain."""

import numpy as np

from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.manifest import GalleryDescription
from vse_jax.gallery.rows import Record
from vse_jax.gallery.writer import GalleryWriter

DIM = 8
SHARD_BYTES = 10 * DIM * 2  # ten rows


def description(**changes):
    fields = {
        "model": "a model",
        "similarity": "cosine",
        "content": "images",
        "dim": DIM,
        "dtype": "float16",
        "options": {"crops": 1},
    }
    return GalleryDescription(**fields | changes)


def source(number, seed=0, start=0):
    """Returns rows of a source by ID: an embedding and a record."""
    rng = np.random.default_rng(seed)
    rows = {}
    for i in range(start, start + number):
        captions = [f"caption {i}.{j}" for j in range(i % 3)] or None
        record = Record(f"photo {i}", f"/photos/{i}.jpg", captions, 100 + i, i / 2)
        rows[record.id] = rng.standard_normal(DIM).astype(np.float16), record
    return rows


def encode(folder, rows, batch=7, writer=None):
    """Makes a gallery contain exactly the rows, as an encoding does."""
    embeddings, records = zip(*rows.values(), strict=True) if rows else ((), ())
    writer = writer or GalleryWriter(folder, description(), shard_bytes=SHARD_BYTES)
    with writer:
        changes = writer.changes(
            [record.id for record in records],
            [record.size for record in records],
            [record.modified for record in records],
        )
        writer.drop(changes.outdated)
        for start in range(0, len(changes.missing), batch):
            some = changes.missing[start : start + batch]
            writer.write(
                np.stack([embeddings[i] for i in some]), [records[i] for i in some]
            )
    return changes


def content(folder, copies=""):
    """Returns the rows that a gallery has, by ID."""
    gallery = Gallery.open(folder, copies)
    embeddings = [np.empty((0, DIM), gallery.dtype), *gallery.blocks(3)]
    records = gallery.rows_at(range(gallery.rows))
    return {
        record.id: (embedding, record)
        for embedding, record in zip(np.concatenate(embeddings), records, strict=True)
    }


def assert_same_rows(found, expected):
    assert found.keys() == expected.keys()
    for row_id, (embedding, record) in expected.items():
        np.testing.assert_array_equal(found[row_id][0], embedding)
        assert found[row_id][1] == record
