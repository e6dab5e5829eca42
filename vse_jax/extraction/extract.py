"""Feature extraction: the program's `--mode=extract`.

A pretrained backbone converts photos to a dataset of features. Models for precomputed
features are trained on it, as in their papers.
"""

import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files, parallel, shared_folder
from vse_jax.data import datasets, input_pipeline, local_copy, sampling
from vse_jax.data.datasets import numpy_export
from vse_jax.data.datasets.extracted_features import PCA_FILE
from vse_jax.data.identity import identity_of
from vse_jax.data.records import content_of
from vse_jax.errors import InputError, reporting_writes
from vse_jax.experiment import check_photo_size
from vse_jax.extraction import backbone_file, pca
from vse_jax.extraction.extractor import (
    LARGEST,
    FeatureExtractor,
    feature_shape,
    load_variables,
)
from vse_jax.extraction.shards import FeatureFolder, Shard
from vse_jax.models.backbones import FAMILIES
from vse_jax.progress import Progress
from vse_jax.run_config import check_extraction_options, value_of
from vse_jax.torch_import.resolve import resolved

logger = logging.getLogger(__name__)

FOLDER = "features"  # folder of the dataset, in the workdir
_PCA_IMAGES = 2_000  # at most, evenly spaced in the train split
_MEGABYTE = 2**20
# The options that the features depend on, besides the photos and the weights.
_OPTIONS = (
    "data.builder",
    "data.image_size",
    "data.resize",
    "dtype",
    "model.backbone.name",
    "extract.regions",
    "extract.pool",
    "extract.pca_dim",
    "extract.shard_megabytes",
)
# Those of vision transformers; other backbones have the defaults.
_TOWER_OPTIONS = ("data.fit", "data.interpolation", "model.backbone.tower")


def extract(config: ml_collections.ConfigDict, workdir: str) -> epath.Path:
    """Extracts the features of all splits of a dataset of photos.

    Shards that an earlier run completed are kept. Each host writes its own shards. At
    the end, the primary host writes the metadata that make them a dataset.

    Args:
      config: see `configs/common.py`.
      workdir: folder of the run; the dataset is written to its folder `features`.

    Returns:
      The folder of the dataset, which can be `config.data.root` of a training.

    Raises:
      InputError: if an option, the weights or the photos are invalid, or if the workdir
        has features of other photos or options.
      TrainingError: if the features cannot be written, or if memory is insufficient.
    """
    config = resolved(config)
    check_extraction_options(config)
    parallel.check_batch_size(config.evaluation_batch_size, "evaluation_batch_size")
    with parallel.primary_host_first("prepared the dataset"):
        builder = datasets.prepare(config.data)
    _check_photos(config, builder)
    directory = epath.Path(workdir).expanduser() / FOLDER
    fits = parallel.reporting_memory(
        config.evaluation_batch_size, "evaluation_batch_size"
    )
    with reporting_writes(workdir), fits:
        Extraction(config, builder, directory).run()
    return directory


def _check_photos(config, builder):
    if content_of(builder).key != "image":
        raise InputError(
            f"{builder.data_dir}: contains no photos, but {content_of(builder).key}; "
            "set config.data.builder and config.data.root to a dataset of photos"
        )
    check_photo_size(config, builder)


class Extraction:
    """The extraction of one dataset of features."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        builder: tfds.core.DatasetBuilder,
        directory: epath.Path,
    ):
        """Checks the options, the weights and the photos; writes nothing.

        Args:
          config: see `configs/common.py`.
          builder: builder of the dataset of photos.
          directory: folder of the features.
        """
        self._config = config
        self._builder = builder
        self._directory = directory
        self._sources = _sources(builder)
        self._indexes = {
            split: input_pipeline.split_index(builder, source, config.data.tokenizer)
            for split, source in self._sources.items()
        }
        if config.extract.numpy_layout:
            self._captions_taken = numpy_export.count_captions_taken(self._indexes)
        image = self._example_image()
        if config.extract.pca_dim and "train" not in self._indexes:
            raise InputError(
                f"config.extract.pca_dim is {config.extract.pca_dim}, but "
                f"{builder.data_dir} has no split 'train' to fit the PCA on; set it to "
                "0"
            )
        self._variables = load_variables(config, image)
        self._shape = feature_shape(config, self._variables, image)
        self._folder = FeatureFolder(
            directory,
            {split: index.image_count for split, index in self._indexes.items()},
            self._shape,
            int(config.extract.shard_megabytes * _MEGABYTE),
        )
        self._identity = identity_of(builder)
        self._description = self._describe()
        parallel.check_same_on_hosts(
            f"the photos {builder.data_dir}, or config.model.backbone.weights,",
            json.dumps(self._description, sort_keys=True),
            "use folders that all hosts share, or copy the same files to all",
        )
        self._folder.check_description(self._description, self._identity)

    def _example_image(self):
        """Returns a batch with the first photo, `[batch, height, width, 3]` uint8."""
        split = next(iter(self._indexes))
        batches = self._batches(split, np.arange(1))
        image = next(batches)["image"]
        batches.close()
        return image

    def _batches(self, split, numbers):
        config = self._config.copy_and_resolve_references()
        # Each host extracts its own shards.
        config.evaluation_batch_size //= parallel.this_host()["process_count"]
        return input_pipeline.image_batches(
            self._builder, self._sources[split], config, numbers=numbers
        )

    def _describe(self) -> dict[str, Any]:
        """Describes the extraction, with all that is needed to embed a new photo."""
        names = _OPTIONS
        if self._config.model.backbone.name in FAMILIES:
            names += _TOWER_OPTIONS
        options = {f"config.{name}": value_of(self._config, name) for name in names}
        tower = options.get("config.model.backbone.tower")
        if tower is not None:
            options["config.model.backbone.tower"] = tower.to_dict()
        return options | {
            "config.model.backbone.weights": backbone_file.digest(self._variables),
            "unit_length": self._config.extract.regions == "pooled",
            "photos": self._identity.summary(),
        }

    def run(self) -> None:
        """Writes the missing shards, completes the dataset and prints a summary."""
        writer = files.sole_writer(self._directory)
        with shared_folder.locked(writer, self._directory):
            self._run()

    def _run(self):
        if parallel.is_primary_host():
            # Another run may have written here while this one waited for the lock.
            self._folder.check_description(self._description, self._identity)
            self._folder.write_description(self._description, self._identity)
            backbone_file.write(
                self._variables,
                self._directory,
                replace=not self._folder.holds_results(),
            )
        parallel.wait_for_hosts("began the extraction")
        speed = self._write_shards()
        parallel.wait_for_hosts("extracted the features")
        if parallel.is_primary_host():
            builder = local_copy.locate(
                self._folder.complete(), self._config.data.local_copy
            )
            layout = self._config.extract.numpy_layout
            if layout:
                layout = epath.Path(layout).expanduser()
                with reporting_writes(layout):
                    numpy_export.export(builder, layout, self._captions_taken)
            self._report(builder, speed, layout)
        parallel.wait_for_hosts("completed the extraction")

    def _write_shards(self) -> float:
        """Writes the missing shards; returns images per second, 0 if there are none."""
        host = parallel.this_host()
        own = self._folder.shards[host["process_index"] :: host["process_count"]]
        missing = [shard for shard in own if not shard.path.exists()]
        # All hosts call this, even without missing shards, since they wait in it.
        fitted = self._fitted_pca()
        if not missing:
            return 0.0
        extractor = FeatureExtractor(self._config, self._variables, fitted)
        total, images = _count(own), _count(missing)
        if images < total:
            logger.info("%s of %s images are done", f"{total - images:,}", f"{total:,}")
        progress = Progress("extracting", total, "images", done=total - images)
        start = time.perf_counter()
        with progress:
            for shard in missing:
                self._folder.write_shard(
                    shard, self._examples(extractor, shard, progress)
                )
        return images / (time.perf_counter() - start)

    def _fitted_pca(self) -> pca.PCA | None:
        """Returns the stored PCA; the primary host fits it if there is none yet."""
        if not self._config.extract.pca_dim:
            return None
        path = self._directory / PCA_FILE
        if parallel.is_primary_host() and not path.exists():
            with files.unfinished(path) as unfinished:
                unfinished.write_bytes(pca.to_bytes(self._fit_pca()))
        parallel.wait_for_hosts("fitted the PCA")
        return pca.load(path)

    def _fit_pca(self) -> pca.PCA:
        images = self._indexes["train"].image_count
        numbers = sampling.evenly_spaced(_PCA_IMAGES, images)
        logger.info("fitting the PCA on %d images of train", len(numbers))
        extractor = FeatureExtractor(self._config, self._variables)
        features = self._features(extractor, "train", numbers)
        return pca.fit(features, self._config.extract.pca_dim)

    def _features(self, extractor, split, numbers) -> Iterator[np.ndarray]:
        """Yields the features of some images in batches; raises if not finite."""
        index = self._indexes[split]
        for batch, features in extractor.extract(self._batches(split, numbers)):
            finite = np.isfinite(features).all(axis=tuple(range(1, features.ndim)))
            if not finite.all():
                image_id = index.image_id_of(batch["image_index"][finite.argmin()])
                raise InputError(
                    f"{self._builder.data_dir}: image {image_id!r} of {split!r} has "
                    "features that are NaN or beyond the range of float16 "
                    f"(+-{LARGEST:g}); check config.model.backbone.weights"
                )
            yield features

    def _examples(
        self, extractor: FeatureExtractor, shard: Shard, progress: Progress
    ) -> Iterator[tuple[str, list[str], np.ndarray]]:
        index = self._indexes[shard.split]
        image = shard.start
        for features in self._features(
            extractor, shard.split, np.arange(shard.start, shard.stop)
        ):
            for feature in features:
                first, behind = index.caption_offset[image : image + 2]
                yield index.image_id_of(image), index.captions[first:behind], feature
                image += 1
            progress.add(len(features))

    def _report(self, builder, speed, layout) -> None:
        for split, info in builder.info.splits.items():
            print(f"{split + ':':12} {info.num_examples:,} images")
        shape = " x ".join(map(str, self._shape))
        print(f"an image:    {shape} numbers, float16")
        if speed:
            print(f"speed:       {speed:.1f} images/s, with reading and compilation")
        print(f"features:    {self._directory}")
        if layout:
            print(f"numpy files: {layout}")
        print(f"to train:    {shlex.join(self._training_command())}")
        sys.stdout.flush()

    def _training_command(self) -> list[str]:
        """Returns the command that trains a model on the features."""
        of_coco = "restval" in self._indexes
        name = "coco" if of_coco else "f8k"
        kind = "rvse.py" if len(self._shape) == 2 else "vsepp.py:features"
        config, options = f"configs/{name}_{kind}", {"data.root": self._directory}
        if of_coco:
            options |= {"data.train_split": "train+restval", "data.test_split": "test"}
        if "train" in self._indexes:
            largest = sampling.largest_batch_size(self._indexes["train"].image_count)
            if largest < self._config.batch_size:
                options["batch_size"] = 1 << (largest.bit_length() - 1)
        return [
            "python",
            "main.py",
            "--config",
            config,
            *(f"--config.{name}={value}" for name, value in options.items()),
        ]


def _count(shards):
    return sum(shard.stop - shard.start for shard in shards)


def _sources(builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    """Maps the names of the splits of features to those of the splits of photos.

    Karpathy's `val` becomes `dev`, which is its name in datasets of features.
    """
    splits = [name for name, info in builder.info.splits.items() if info.num_examples]
    names = {"val": "dev"} if "dev" not in splits else {}
    return {names.get(source, source): source for source in splits}
