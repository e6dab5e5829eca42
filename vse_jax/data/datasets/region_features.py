"""The dataset `region_features`: precomputed features of images, and their captions.

The folder `config.data.root` holds files for each SPLIT, one of train, dev, test and
testall. Text has one item per line. It is UTF-8, or UTF-16 and UTF-32 with a byte order
mark.

    SPLIT_caps.txt    a caption per line
    SPLIT_ids.txt     an image id per line: one per image, or one per caption

The features of a split have one of these forms. Two forms of one split are refused.
Features are float16, float32 or float64 in any byte order. Regions are stored as
float16, one feature per image as float32 (as float16 if all are float16). NaN, infinite
values, and values that float16 cannot hold are refused with the file and the record.

1. Numpy: `SPLIT_ims.npy`, float `[images, regions, dim]`, or `[images, dim]` with one
   feature per image. Images are in the order of the captions, each with equally many
   captions. Every image may be repeated five times, a row per caption. Ids are
   optional. Where images have different numbers of regions, the array is padded and
   `SPLIT_counts.npy`, integers `[images]`, has the number of regions of each image, at
   least 1. Pickled arrays of objects are refused, not unpickled.
2. Bottom-up attention's TSV: `SPLIT.tsv`, or parts `SPLIT.tsv.0`, `SPLIT.tsv.1`, ...
   Files of any other name, such as `trainval_36.tsv`, serve all splits that have no
   features of their own. A line has the fields `image_id`, `image_w`, `image_h`,
   `num_boxes`, `boxes`, `features`, separated by tabs, or the ten fields of LXMERT.
   `features` is base64 of little-endian float32 `[num_boxes, dim]`. Images are found
   by their ids, so `SPLIT_ids.txt` is required; it has the ids as the TSV has them.
   With one id per caption, images may have different numbers of captions.
3. HDF5 (needs h5py): `SPLIT.h5` or `SPLIT.hdf5`, or one file of any other name for all
   splits that have no features of their own.

   - One array: a dataset `features` (or `image_features`), `[images, regions, dim]` or
     `[images, dim]`; optionally the integers `num_boxes` (or `counts`, or a file
     `SPLIT_counts.npy`) and `image_ids`, each `[images]`. Rows are found by their ids
     if there are `image_ids` and `SPLIT_ids.txt`; otherwise they are in the order of
     the captions. A file for all splits needs both.
   - One array per image: a dataset `/ID`, `/ID/features` or `/ID_features`,
     `[regions, dim]`, at the root or in a group `/features`. `SPLIT_ids.txt` is
     required.

**Regions of zeros.** Where the number of regions is not given (a padded array without
counts), rows of zeros at the end of an image are skipped as padding, and one warning
says how many. An image with only zeros is refused there. Where the number is given, the
regions that it counts are kept, zeros or not, and a warning says how many are zeros.
Rows beyond the number are not read; a warning says if they hold anything but zeros.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vse_jax.data.datasets import (
    captioned_images,
    layout_files,
    numpy_layout,
    source_folder,
)
from vse_jax.data.datasets.layout_split import ImageFeatures, LayoutSplit
from vse_jax.errors import InputError


@dataclasses.dataclass(eq=False, kw_only=True)
class RegionFeaturesConfig(tfds.core.BuilderConfig):
    """Where the features come from: a folder and its splits by name."""

    root: str
    splits: dict[str, LayoutSplit] = dataclasses.field(repr=False)
    fingerprint: dict[str, list[int]]

    @property
    def feature_name(self) -> str:
        """`regions` where images have several, `feature` where they have one."""
        return "regions" if self._any_features.has_regions else "feature"

    @property
    def dim(self) -> int:
        """Dimensions of a feature."""
        return self._any_features.dim

    @property
    def dtype(self) -> np.dtype:
        """float16 for regions; a single feature keeps up to float32."""
        is_half = all(s.features.dtype.itemsize == 2 for s in self.splits.values())
        half = self._any_features.has_regions or is_half
        return np.dtype(np.float16 if half else np.float32)

    @property
    def _any_features(self) -> ImageFeatures:
        return next(iter(self.splits.values())).features


class RegionFeatures(captioned_images.CaptionedImages):
    """One example an image: `image_id`, `captions` and `regions` or `feature`.

    `regions` is float16 `[regions, dim]`; `feature` is float16 or float32 `[dim]`.
    """

    VERSION = tfds.core.Version("1.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Precomputed features of images, and captions.",
            features=features_dict(config.feature_name, config.dim, config.dtype),
            metadata=tfds.core.MetadataDict(
                root=config.root, sources=config.fingerprint
            ),
            disable_shuffling=True,
        )

    def _split_plans(self) -> dict[str, captioned_images.SplitPlan]:
        return {
            name: captioned_images.SplitPlan(
                image_count=split.image_count,
                image_bytes=split.features.image_bytes,
                examples=functools.partial(self._examples, split),
            )
            for name, split in self.builder_config.splits.items()
        }

    def _examples(
        self, split: LayoutSplit, start: int, stop: int
    ) -> Iterator[dict[str, Any]]:
        config = self.builder_config
        for image, feature in split.images(start, stop, config.dtype):
            yield {
                "image_id": split.image_ids[image],
                "captions": split.captions_of(image),
                config.feature_name: feature,
            }


def features_dict(name: str, dim: int, dtype: str) -> tfds.features.FeaturesDict:
    """Returns the description of the examples for TFDS.

    Args:
      name: `regions` (`[any number, dim]`) or `feature` (`[dim]`).
      dim: dimensions of a feature.
      dtype: of the numbers.
    """
    shape = (None, dim) if name == "regions" else (dim,)
    # As bytes, a batch is decoded by one `tf.io.decode_raw`; otherwise float16 would be
    # stored as float32.
    feature = tfds.features.Tensor(
        shape=shape, dtype=np.dtype(dtype), encoding=tfds.features.Encoding.BYTES
    )
    return tfds.features.FeaturesDict(
        captioned_images.caption_features() | {name: feature}
    )


class RegionFeaturesSource:
    """The folder `data.root`, from which `region_features` is prepared."""

    builder_name = RegionFeatures.name
    version = RegionFeatures.VERSION
    downloads = False

    def __init__(self, data: ml_collections.ConfigDict):
        """Takes the `data` group of the config; looks at no file."""
        self._root = source_folder.absolute(data.root)
        self._region_dim = data.region_dim
        self.config_name = data.name or source_folder.name_of(self._root)

    def fingerprint(self) -> dict[str, list[int]] | None:
        """Returns sizes and times of the source files; None if there is no folder."""
        if self._root is None or not self._root.is_dir():
            return None
        return layout_files.fingerprint(self._root)

    def splits(self) -> tuple[str, ...]:
        """Returns the splits of the folder."""
        return tuple(self._checked_config.splits)

    def builder(
        self, data_dir: epath.Path, version: tfds.core.Version
    ) -> RegionFeatures:
        """Returns a builder that prepares the folder.

        Raises:
          InputError: if the folder is invalid.
        """
        config = dataclasses.replace(self._checked_config, version=version)
        return RegionFeatures(data_dir=data_dir, config=config)

    def check_source(self) -> None:
        """Raises InputError if the folder cannot be prepared; reads no feature."""
        _ = self._checked_config

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Raises InputError if the prepared features have another dim."""
        name = "regions" if "regions" in builder.info.features else "feature"
        dim = builder.info.features[name].shape[-1]
        holds_features = f"{builder.data_dir}: was prepared from features"
        _check_dim(holds_features, dim, self._region_dim)

    @functools.cached_property
    def _checked_config(self) -> RegionFeaturesConfig:
        source_folder.check_is_folder(self._root, "train_ims.npy and train_caps.txt")
        # Taken first: a file that changes while we read it will differ the next time.
        fingerprint = layout_files.fingerprint(self._root)
        splits = numpy_layout.open_layout(self._root)
        config = RegionFeaturesConfig(
            name=self.config_name,
            root=os.fspath(self._root),
            splits=splits,
            fingerprint=fingerprint,
        )
        path = next(iter(splits.values())).features.path
        _check_dim(f"{path}: holds features", config.dim, self._region_dim)
        return config


def _check_dim(holds_features: str, dim: int, expected: int) -> None:
    """Refuses features of another dim than `data.region_dim`.

    Args:
      holds_features: beginning of the message.
      dim: of the features.
      expected: `data.region_dim`; 0 takes any.

    Raises:
      InputError: naming the option.
    """
    if expected not in (0, dim):
        raise InputError(
            f"{holds_features} of {dim} dimensions; expected {expected}: set "
            "config.data.region_dim (0 takes any)"
        )
