"""Opens the gallery that the flags name, and encodes it first if necessary."""

import logging
import os
import shlex
import time
from typing import NamedTuple

import ml_collections
from etils import epath

from vse_jax import files, parallel, run_config
from vse_jax.errors import InputError
from vse_jax.evaluate import check_dataset, check_dimensions
from vse_jax.experiment import create_experiment
from vse_jax.gallery.encode import Encoded, Source, encode
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.sources import CAPTIONS, IMAGES, CaptionFile, PhotoFolder, Split
from vse_jax.retrieval_model import RetrievalModel, load
from vse_jax.search.prepare_search import is_prepared, prepare
from vse_jax.search.searcher import Searcher

logger = logging.getLogger(__name__)

_MANY_ROWS = 1_000_000
FOLDER = "galleries"  # in the workdir, for galleries without a name


class Place(NamedTuple):
    """What to encode or to search, as the flags name it.

    Attributes:
      workdir: folder of the run, or of an export.
      checkpoint: `best`, `latest` or a step.
      source: folder of photos, text file or split; "" for the split that --mode=eval
        evaluates.
      gallery: folder of the gallery; "" for one in the workdir.
      content: `images` or `captions` of a split; "" for images.
      overrides: values by dotted option names, for `run_config.EVALUATION_OPTIONS`.
      options: `config.gallery`.
    """

    workdir: str
    checkpoint: str
    source: str
    gallery: str
    content: str
    overrides: dict
    options: ml_collections.ConfigDict


def open_searcher(place: Place) -> Searcher:
    """Returns a searcher on a gallery; encodes a source first, or what is new in it.

    Raises:
      InputError: if the model, the source or the gallery is invalid.
      TrainingError: if the gallery cannot be written.
    """
    model = _load(place)
    folder = epath.Path(place.gallery).expanduser()
    is_updated = not place.gallery or bool(place.source)
    if is_updated:
        folder, _ = _update_gallery(place, model)
    gallery = Gallery.open(folder, _copies(place, model))
    _check_content(place, gallery.content, folder)
    if is_updated and not is_prepared(gallery, place.options):
        _prepare(place, model, gallery)
    if not gallery.complete:
        logger.warning(
            "%s is incomplete: its encoding was interrupted after %s rows; run "
            "--mode=encode again",
            folder,
            f"{gallery.rows:,}",
        )
    options = place.options
    if gallery.rows > _MANY_ROWS and not options.index:
        logger.warning(
            "%s has %s rows; an index makes searches faster: run --mode=encode and "
            "--mode=search with --config.gallery.index=ivf (pip install faiss-cpu)",
            folder,
            f"{gallery.rows:,}",
        )
    return Searcher(model, gallery, hubness=options.hubness, index=options.index)


def encode_and_report(place: Place) -> None:
    """Encodes a source into a gallery and prints a summary: `--mode=encode`.

    Raises:
      InputError: if the model, the source or the gallery is invalid.
      TrainingError: if the gallery cannot be written.
    """
    started = time.perf_counter()
    model = _load(place)
    folder, encoded = _update_gallery(place, model)
    gallery = Gallery.open(folder, _copies(place, model))
    if place.options.hubness or place.options.index:
        _prepare(place, model, gallery)
    if not parallel.is_primary_host():
        return
    skipped = f", skipped {encoded.skipped:,}" if encoded.skipped else ""
    print(f"rows:     {gallery.rows:,} {gallery.content}")
    print(f"changes:  added {encoded.added:,}, dropped {encoded.dropped:,}{skipped}")
    print(f"time:     {time.perf_counter() - started:.1f} s")
    print(f"gallery:  {folder}")
    command = ["python", "main.py", "--mode=search", f"--workdir={place.workdir}"]
    command += [f"--gallery={folder}", "--query=..."]
    print(f"search:   {shlex.join(command)}", flush=True)


def _update_gallery(place: Place, model: RetrievalModel) -> tuple[epath.Path, Encoded]:
    """Encodes what a gallery lacks of its source.

    Returns:
      The folder of the gallery, and what was done.

    Raises:
      InputError: if the source is invalid or does not suit the model or the gallery.
      TrainingError: if the gallery cannot be written.
    """
    source = _open_source(place, model)
    folder = epath.Path(place.gallery or _default_folder(place, model, source))
    folder = folder.expanduser()
    size = model.config.evaluation_batch_size
    with parallel.reporting_memory(size, "evaluation_batch_size"):
        copies = _copies(place, model)
        return folder, encode(model, source, folder, place.options, copies)


def _load(place):
    run_config.check_gallery_options(place.options)
    limit = place.overrides.get("data.maximum_pixels")
    model = load(place.workdir, place.checkpoint, maximum_pixels=limit)
    crops = model.config.data.crops
    if place.overrides.get("data.crops", crops) != crops:
        raise InputError(
            f"config.data.crops is {place.overrides['data.crops']}, but photos of a "
            f"gallery and of queries have the crops of the run: {crops}; leave it out"
        )
    size = place.overrides.get("evaluation_batch_size")
    if size is not None:
        parallel.check_batch_size(size, "evaluation_batch_size")
        model.config.evaluation_batch_size = size
    return model


def _copies(place, model):
    """Returns the local folder for copies of a gallery on an object store."""
    saved = model.config.data.local_copy
    return place.overrides.get("data.local_copy", saved)


def _prepare(place, model, gallery):
    size = model.config.evaluation_batch_size
    with parallel.reporting_memory(size, "evaluation_batch_size"):
        experiment = _experiment(place, model)
        prepare(model, experiment, gallery, place.options)


def _default_folder(place, model, source):
    # The best checkpoint may change, and a gallery is of one model.
    return epath.Path(place.workdir) / FOLDER / model.fingerprint / source.name


def _open_source(place: Place, model: RetrievalModel) -> Source:
    """Opens a folder of photos, a text file, or a split of the run's dataset.

    Raises:
      InputError: if it does not exist or cannot be read.
    """
    path = epath.Path(place.source or ".").expanduser()
    splits = (model.restored.run["dataset"] or {}).get("splits", {})
    if place.source in splits and path.exists():
        logger.warning(
            "--source=%s is taken for %s, not for the split of the run's dataset; "
            "start in another folder to take the split",
            place.source,
            files.absolute(place.source),
        )
    if place.source and path.is_dir():
        _check_content(place, IMAGES, path)
        return PhotoFolder(path)
    if place.source and path.is_file():
        _check_content(place, CAPTIONS, path)
        return CaptionFile(path)
    if os.sep in place.source or "." in place.source:
        raise InputError(
            f"--source={place.source}: there is no such folder or file; expected a "
            "folder of photos, a text file with one caption per line, or a split"
        )
    return _open_split(place, model)


def _experiment(place, model):
    saved = model.restored.run["config"]
    config = run_config.merge(saved, place.overrides)
    return create_experiment(config, model.vocabulary)


def _open_split(place, model):
    experiment = _experiment(place, model)
    split = place.source or experiment.default_split
    check_dimensions(experiment, model.image_input.dim)
    check_dataset(experiment, model.restored, place.workdir, split)
    return Split(experiment, split, place.content or IMAGES)


def _check_content(place, content, path):
    if place.content not in ("", content):
        raise InputError(
            f"--content is {place.content}, but {path} has {content}; leave it out"
        )
