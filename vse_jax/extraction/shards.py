"""The folder of extracted features, which is written shard by shard.

It has the layout of TFDS: the shards, then `features.json` and finally
`dataset_info.json`, so that `vse_jax.data.datasets.extracted_features` can open it by
its path alone.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from vse_jax import files
from vse_jax.data import identity, local_copy
from vse_jax.data.datasets import captioned_images
from vse_jax.data.datasets.extracted_features import (
    DESCRIPTION_FILE,
    read_description,
)
from vse_jax.data.datasets.region_features import RegionFeatures, features_dict
from vse_jax.data.identity import DatasetIdentity
from vse_jax.errors import InputError, differences
from vse_jax.extraction.backbone_file import BACKBONE_FILE

_SUFFIX = "array_record"
_PHOTOS_FILE = "photos.npz"  # identity of the photos


class Shard(NamedTuple):
    """Images `start` to `stop - 1` of a split, and the file that contains them."""

    split: str
    start: int
    stop: int
    path: epath.Path


class FeatureFolder:
    """A folder of extracted features, which is written shard by shard.

    A shard is written under another name and then renamed, so that every shard is
    complete. Which images a shard contains depends only on the number of images and on
    the sizes of a feature and of a shard.

    Attributes:
      directory: folder of the dataset.
      shards: shards of all splits.
    """

    def __init__(
        self,
        directory: epath.Path,
        image_counts: Mapping[str, int],
        feature_shape: tuple[int, ...],
        shard_bytes: int,
    ):
        """Plans the shards.

        Args:
          directory: folder of the dataset.
          image_counts: number of images of each split.
          feature_shape: shape of an image's features, `[regions, dim]` or `[dim]`.
          shard_bytes: maximum size of a shard, bytes.
        """
        self.directory = directory
        self._key = "regions" if len(feature_shape) == 2 else "feature"
        self._features = features_dict(self._key, feature_shape[-1], "float16")
        self.shards = [
            shard
            for split, count in image_counts.items()
            for shard in self._plan(split, count, feature_shape, shard_bytes)
        ]

    def _plan(self, split, count, feature_shape, shard_bytes):
        image_bytes = 2 * math.prod(feature_shape)  # of float16
        bounds = captioned_images.shard_bounds(count, image_bytes, shard_bytes)
        template = self._template(split)
        for i, (start, stop) in enumerate(bounds):
            path = template.sharded_filepath(shard_index=i, num_shards=len(bounds))
            yield Shard(split, start, stop, path)

    def _template(self, split):
        return tfds.core.ShardedFileTemplate(
            data_dir=self.directory,
            dataset_name=RegionFeatures.name,
            split=split,
            filetype_suffix=_SUFFIX,
        )

    def check_description(
        self, description: Mapping[str, Any], photos: DatasetIdentity
    ) -> None:
        """Checks that features in the folder are of the same options and photos.

        Checks nothing if the folder has no complete result yet.

        Args:
          description: description of the extraction; its `photos` is the summary of the
            identity.
          photos: identity of the dataset of photos.

        Raises:
          InputError: if photos or options differ; names them.
        """
        path = self.directory / DESCRIPTION_FILE
        if not self.holds_results() or not path.exists():
            return
        begun = read_description(path)
        self._check_photos(begun.get("photos"), photos)
        now = json.loads(json.dumps(description))
        differing = differences({**begun, "photos": None}, {**now, "photos": None})
        if differing:
            raise InputError(
                f"{self.directory}: was extracted with other options: "
                f"{', '.join(differing)}; set them back, or choose another --workdir"
            )

    def _check_photos(self, begun: dict | None, photos: DatasetIdentity) -> None:
        before = identity.read(self.directory / _PHOTOS_FILE)
        changed = identity.difference(begun or photos.summary(), before, photos)
        if changed:
            raise InputError(
                f"{self.directory}: was extracted from other data: {changed}; delete "
                "this folder to extract again, or choose another --workdir"
            )

    def holds_results(self) -> bool:
        """Returns whether the folder contains any complete result."""
        if not self.directory.is_dir():
            return False
        names = {path.name for path in self.directory.iterdir()}
        return any(
            not name.startswith(files.UNFINISHED)
            for name in names - {DESCRIPTION_FILE, _PHOTOS_FILE, BACKBONE_FILE}
        )

    def write_description(
        self, description: Mapping[str, Any], photos: DatasetIdentity
    ) -> None:
        """Writes the description of the extraction and the identity of the photos."""
        identity.write(photos, self.directory / _PHOTOS_FILE)
        content = json.dumps(description, indent=2) + "\n"
        with files.unfinished(self.directory / DESCRIPTION_FILE) as path:
            path.write_text(content)

    def write_shard(
        self, shard: Shard, examples: Iterable[tuple[str, list[str], Any]]
    ) -> None:
        """Writes a shard atomically.

        Args:
          shard: one of `shards`.
          examples: image ID, captions and feature of each image, in order.

        Raises:
          OSError: if the shard cannot be written.
        """
        with files.unfinished_local(shard.path) as path:
            with files.reporting_array_record():
                writer = array_record_module.ArrayRecordWriter(
                    os.fspath(path), "group_size:1"
                )
            for example in examples:
                # Outside the context, since a device may raise the same type of error.
                serialized = self._serialize(*example)
                with files.reporting_array_record():
                    writer.write(serialized)
            with files.reporting_array_record():
                writer.close()

    def _serialize(self, image_id, captions, feature):
        example = {"image_id": image_id, "captions": captions, self._key: feature}
        serialized = self._features.serialize_example(example)
        # TFDS writes the fields in arbitrary order.
        parsed = tf.train.Example.FromString(serialized)
        return parsed.SerializeToString(deterministic=True)

    def complete(self) -> tfds.core.DatasetBuilder:
        """Writes the metadata that make the shards a dataset, and opens it."""
        splits: dict[str, list[Shard]] = {}
        for shard in self.shards:
            splits.setdefault(shard.split, []).append(shard)
        tfds.folder_dataset.write_metadata(
            data_dir=self.directory,
            features=self._features,
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.stop - shard.start for shard in shards],
                    num_bytes=sum(shard.path.stat().length for shard in shards),
                    filename_template=self._template(split),
                )
                for split, shards in splits.items()
            ],
            version=str(RegionFeatures.VERSION),
            description="Features that a backbone computed from photos, and captions.",
            disable_shuffling=True,
            check_data=False,
        )
        return local_copy.open_dataset(self.directory)
