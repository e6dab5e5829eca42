"""Embeds a source into a gallery: the program's `--mode=encode`."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import numpy as np
from etils import epath

from vse_jax import parallel
from vse_jax.errors import InputError
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.manifest import GalleryDescription
from vse_jax.gallery.sources import CAPTIONS, CaptionFile, PhotoFolder, Split
from vse_jax.gallery.writer import GalleryWriter
from vse_jax.progress import Progress
from vse_jax.retrieval_model import RetrievalModel

logger = logging.getLogger(__name__)

Source = PhotoFolder | CaptionFile | Split
_CAPTIONS_AT_ONCE = 4096


class Encoded(NamedTuple):
    """What an encoding did.

    Attributes:
      added: number of rows that all hosts together embedded.
      dropped: number of rows that are no longer in the source, or that changed.
      skipped: number of photos that could not be decoded, on all hosts together.
    """

    added: int
    dropped: int
    skipped: int


def encode(
    model: RetrievalModel,
    source: Source,
    folder: epath.Path,
    options: ml_collections.ConfigDict,
    copies: str = "",
) -> Encoded:
    """Embeds the rows of a source that a gallery lacks, and drops those that are gone.

    Every host embeds its share of the rows. An interrupted run is continued.

    Args:
      model: model to embed with.
      source: what to embed.
      folder: folder of the gallery, which may not exist.
      options: `config.gallery`.
      copies: local folder for copies of remote files, `config.data.local_copy`.

    Raises:
      InputError: if the folder has a gallery of another model, source or dtype; if no
        photo can be decoded; or if the source does not suit the model.
      TrainingError: if the gallery cannot be written.
    """
    host = parallel.this_host()
    parallel.check_same_on_hosts(
        "the list of what is to be encoded",
        "\n".join(source.ids),
        "name a --source that all hosts share",
    )
    description = _describe(model, source, options)
    with GalleryWriter(folder, description, copies=copies) as writer:
        changes = writer.changes(source.ids, source.sizes, source.modified)
        writer.drop(changes.outdated)
        own = changes.missing[host["process_index"] :: host["process_count"]]
        done = len(source.ids) - len(changes.missing)
        added = _embed(model, source, own, writer, done)
    counts = parallel.gather_over_hosts(np.array([[added, source.skipped]], np.int32))
    added, skipped = counts.sum(axis=0).tolist()
    if skipped and not added and not done:
        raise InputError(
            f"{source.options['source']}: none of its {len(source.ids)} photos can be "
            "decoded; see the lines above"
        )
    return Encoded(added, len(changes.outdated), skipped)


def _describe(model, source, options) -> GalleryDescription:
    return GalleryDescription(
        model=model.fingerprint,
        similarity=model.similarity_name,
        content=source.content,
        dim=model.embed_dim,
        dtype=options.dtype,
        options=source.options,
    )


def _embed(model, source, rows, writer, done) -> int:
    """Embeds rows and writes them; returns their number."""
    if not len(rows):
        return 0
    total = len(rows) + done
    what = source.content
    added = 0
    with Progress(f"embedding {what}", total, what, done=done) as progress:
        for numbers, embeddings in embed_rows(model, source, rows):
            writer.write(embeddings, [source.record(row) for row in numbers])
            added += len(numbers)
            progress.add(len(numbers))
    return added


def embed_rows(
    model: RetrievalModel, source: Source, rows: np.ndarray
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Embeds rows of a source in batches.

    Args:
      model: model to embed with.
      source: what to embed.
      rows: numbers of the rows, int `[rows]`.

    Yields:
      Numbers of rows, without photos that were skipped, and their embeddings.
    """
    if source.content == CAPTIONS:
        name = source.options["source"]
        for start in range(0, len(rows), _CAPTIONS_AT_ONCE):
            some = rows[start : start + _CAPTIONS_AT_ONCE].tolist()
            yield some, model.embed_captions(source.captions(some), name=name)
    else:
        contents = source.contents(rows.tolist(), model.image_input)
        yield from model.embed_stream(contents)


def check_model(gallery: Gallery, model: RetrievalModel) -> None:
    """Checks that a gallery was encoded with a model.

    Raises:
      InputError: if it was encoded with another one.
    """
    if gallery.model != model.fingerprint:
        raise InputError(
            f"{gallery.folder}: was encoded with another model ({gallery.model}) than "
            f"that of the checkpoint ({model.fingerprint}); encode it again, into "
            "another --gallery, or set --workdir to the run of the gallery"
        )
