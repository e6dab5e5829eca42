"""Features that `--mode=extract` writes, as a dataset `region_features` of its own.

The folder is in TFDS's layout: its shards, then `features.json` and, at the very end,
`dataset_info.json`. So it is opened by its path alone.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from vse_jax import files
from vse_jax.data.datasets import captioned_images, source_folder
from vse_jax.data.datasets.region_features import (
    RegionFeatures,
    features_dict,
)
from vse_jax.errors import InputError, unreadable

FINGERPRINT_FILE = "extraction.json"
_METADATA_FILE = "dataset_info.json"
_SUFFIX = "array_record"


class Shard(NamedTuple):
    """Images `start` to `stop - 1` of a split, and the file that they are in."""

    split: str
    start: int
    stop: int
    path: epath.Path


class FeatureFolder:
    """A folder of extracted features, which is written shard by shard.

    A shard is written under another name and renamed, so that one that is there is
    complete. Which images are in which shard depends on nothing but their numbers and
    the size of a feature.

    Attributes:
      directory: of the dataset.
      shards: of all splits.
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
          directory: of the dataset.
          image_counts: of each split.
          feature_shape: `[regions, dim]` or `[dim]`, of float16.
          shard_bytes: of a shard.
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

    def check_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuses to go on with what was begun with other options.

        Where nothing of it is complete yet, there is nothing to be kept.

        Raises:
          InputError: naming the options that differ.
        """
        if not self._holds_results():
            return
        path = self.directory / FINGERPRINT_FILE
        try:
            begun = json.loads(path.read_text())
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(path, error) from None
        except ValueError:
            raise InputError(
                f"{path}: is damaged; delete {self.directory} and extract anew"
            ) from None
        now = json.loads(json.dumps(fingerprint))
        names = [name for name in now | begun if now.get(name) != begun.get(name)]
        if names:
            were = ", ".join(f"{name} was {begun.get(name)!r}" for name in names)
            are = ", ".join(f"{now.get(name)!r}" for name in names)
            raise InputError(
                f"{self.directory}: was extracted with other options: {were}, now "
                f"{are}; set them back, or choose another --workdir"
            )

    def _holds_results(self) -> bool:
        """Whether anything is there that was computed, and is complete."""
        if not self.directory.is_dir():
            return False
        names = {path.name for path in self.directory.iterdir()}
        return any(
            not name.startswith(files.UNFINISHED) for name in names - {FINGERPRINT_FILE}
        )

    def write_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Notes in the folder, which is there, what its features will be."""
        content = json.dumps(fingerprint, indent=2) + "\n"
        with files.unfinished(self.directory / FINGERPRINT_FILE) as path:
            path.write_text(content)

    def write_shard(
        self, shard: Shard, examples: Iterable[tuple[str, list[str], Any]]
    ) -> None:
        """Writes all images of a shard, or none.

        Args:
          shard: one of `shards`.
          examples: image_id, captions and feature of each image, in order.

        Raises:
          OSError: if it cannot be written.
        """
        with files.unfinished_local(shard.path) as path:
            with files.reporting_array_record():
                writer = array_record_module.ArrayRecordWriter(
                    os.fspath(path), "group_size:1"
                )
            for example in examples:
                # Outside, as a device may raise the same kind of error.
                serialized = self._serialize(*example)
                with files.reporting_array_record():
                    writer.write(serialized)
            with files.reporting_array_record():
                writer.close()

    def _serialize(self, image_id, captions, feature):
        example = {"image_id": image_id, "captions": captions, self._key: feature}
        serialized = self._features.serialize_example(example)
        # TFDS leaves the order of the fields to chance.
        parsed = tf.train.Example.FromString(serialized)
        return parsed.SerializeToString(deterministic=True)

    def complete(self) -> tfds.core.DatasetBuilder:
        """Writes what makes a dataset of the shards, and opens it."""
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
            description="Features that a backbone made of photos, and captions.",
            disable_shuffling=True,
            check_data=False,
        )
        return tfds.builder_from_directory(self.directory)


def is_extracted(data: ml_collections.ConfigDict) -> bool:
    """Whether `data.root` is such a folder, or any dataset that TFDS has written."""
    root = source_folder.absolute(data.root)
    return (
        data.builder == RegionFeatures.name
        and root is not None
        and any((root / name).exists() for name in (_METADATA_FILE, FINGERPRINT_FILE))
    )


def incomplete(directory: epath.Path) -> InputError:
    """Returns the error that says how an extraction is completed."""
    return InputError(
        f"{directory}: the features there are not complete; run --mode=extract again "
        "with the same options, and it goes on where it stopped"
    )


def check_features(builder: tfds.core.DatasetBuilder) -> None:
    """Refuses a dataset without features.

    Unlike of other people's files, any dim will do: a model takes it from the dataset.

    Args:
      builder: of the dataset.

    Raises:
      InputError: naming the folder.
    """
    features = builder.info.features
    if not {"regions", "feature"} & set(features):
        raise InputError(
            f"{builder.data_dir}: its examples hold {', '.join(features)}; expected "
            "regions or feature: set data.root to a folder of features"
        )
