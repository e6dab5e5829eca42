"""Prepares a gallery for searches with a correction of hubness, or with an index."""

import logging

import ml_collections
import numpy as np

from vse_jax import parallel
from vse_jax.data.sampling import evenly_spaced
from vse_jax.errors import InputError
from vse_jax.experiment import Experiment
from vse_jax.gallery.encode import embed_rows
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.sources import CAPTIONS, IMAGES, Split
from vse_jax.retrieval_model import RetrievalModel
from vse_jax.search import build_index, hubness
from vse_jax.search import index as indexes
from vse_jax.search.hubness import Hubness

logger = logging.getLogger(__name__)


def _training_queries(
    model: RetrievalModel, experiment: Experiment, gallery: Gallery, count: int
) -> np.ndarray:
    """Embeds queries of the training split, of the other side than the gallery.

    Args:
      model: model of the gallery.
      experiment: experiment with the training's dataset.
      gallery: the gallery.
      count: number of queries, at most; they are evenly spaced in the split.

    Returns:
      `[queries, embed]` float32.

    Raises:
      InputError: if the split cannot be read.
    """
    content = CAPTIONS if gallery.content == IMAGES else IMAGES
    source = Split(experiment, experiment.config.data.train_split, content)
    rows = evenly_spaced(count, len(source.ids))
    logger.info("embedding %s training %s as queries", f"{len(rows):,}", content)
    return np.concatenate([some for _, some in embed_rows(model, source, rows)])


def prepare(
    model: RetrievalModel,
    experiment: Experiment,
    gallery: Gallery,
    options: ml_collections.ConfigDict,
) -> None:
    """Computes the correction and builds the index that the options ask for.

    What the gallery's folder already has for the same rows and queries is kept.

    Args:
      model: model of the gallery.
      experiment: experiment with the training's dataset.
      gallery: the gallery.
      options: `config.gallery`.

    Raises:
      InputError: if the training split cannot be read, or if the gallery cannot have
        an index.
      TrainingError: if a file cannot be written.
    """
    count = options.bank_size if options.hubness else build_index.SAMPLE_QUERIES
    queries = _training_queries(model, experiment, gallery, count)
    if parallel.is_primary_host():
        correction = hubness.store(gallery, queries) if options.hubness else None
        if options.index and not _has_index(gallery, options.index, correction):
            _build_index(gallery, options.index, correction, queries)
    parallel.wait_for_hosts("prepared the gallery for searches")


def is_prepared(gallery: Gallery, options: ml_collections.ConfigDict) -> bool:
    """Returns whether a gallery has, for its present rows, what the options ask for."""
    try:
        correction = hubness.load(gallery) if options.hubness else None
    except InputError:
        return False
    return not options.index or _has_index(gallery, options.index, correction)


def _has_index(gallery: Gallery, kind: str, correction: Hubness | None) -> bool:
    try:
        found = indexes.load(gallery, correction).description
    except InputError:
        return False
    wanted = correction.fingerprint if correction else found.hubness
    return (found.kind, found.hubness) == (kind, wanted)


def _build_index(gallery, kind, correction, queries):
    built = build_index.build(gallery, kind, hubness=correction, queries=queries)
    print(
        f"index:    {kind}, finds {built.recall:.1%} of the "
        f"{build_index.RECALL_AT} best rows of exact search"
    )
