"""The dataset `region_features`: precomputed features of images, and their captions."""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vse_jax.data.datasets import captioned_images, numpy_layout, source_folder
from vse_jax.errors import InputError


@dataclasses.dataclass(eq=False, kw_only=True)
class RegionFeaturesConfig(tfds.core.BuilderConfig):
    """Where the features come from: a folder and its splits by name."""

    root: str
    splits: dict[str, numpy_layout.LayoutSplit] = dataclasses.field(repr=False)
    fingerprint: dict[str, list[int]]

    @property
    def feature_name(self) -> str:
        """`regions` where images have several, `feature` where they have one."""
        return "regions" if self._any_array.has_regions else "feature"

    @property
    def dim(self) -> int:
        """Dimensions of a feature."""
        return self._any_array.dim

    @property
    def dtype(self) -> np.dtype:
        """float16 for regions; a single feature keeps up to float32."""
        is_half = all(s.features.dtype.itemsize == 2 for s in self.splits.values())
        half = self._any_array.has_regions or is_half
        return np.dtype(np.float16 if half else np.float32)

    @property
    def _any_array(self):
        return next(iter(self.splits.values())).features


class RegionFeatures(captioned_images.CaptionedImages):
    """One example an image: `image_id`, `captions` and `regions` or `feature`.

    `regions` is float16 `[regions, dim]`; `feature` is float16 or float32 `[dim]`.
    """

    VERSION = tfds.core.Version("1.0.0")

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
                image_bytes=split.features.row_bytes,
                examples=functools.partial(self._examples, split),
            )
            for name, split in self.builder_config.splits.items()
        }

    def _examples(
        self, split: numpy_layout.LayoutSplit, start: int, stop: int
    ) -> Iterator[dict[str, Any]]:
        config = self.builder_config
        for image, feature in split.images(start, stop, config.dtype):
            yield {
                "image_id": split.image_ids[image],
                "captions": split.captions_of(image),
                config.feature_name: feature,
            }


def features_dict(name: str, dim: int, dtype: str) -> tfds.features.FeaturesDict:
    """Returns what TFDS is to know of the examples.

    Args:
      name: `regions` or `feature`.
      dim: of a feature.
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
        return numpy_layout.fingerprint(self._root)

    def splits(self) -> tuple[str, ...]:
        """Returns the splits of the folder."""
        return tuple(self._checked_config.splits)

    def builder(
        self, data_dir: epath.Path, version: tfds.core.Version
    ) -> RegionFeatures:
        """Returns a builder that prepares the folder.

        Raises:
          InputError: if the folder is not as it should be.
        """
        config = dataclasses.replace(self._checked_config, version=version)
        return RegionFeatures(data_dir=data_dir, config=config)

    def check_source(self) -> None:
        """Raises InputError if the folder cannot be prepared; reads no feature."""
        _ = self._checked_config

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Raises InputError if the prepared features have not the dim asked for."""
        name = "regions" if "regions" in builder.info.features else "feature"
        dim = builder.info.features[name].shape[-1]
        holds_features = f"{builder.data_dir}: was prepared from features"
        check_dim(holds_features, dim, self._region_dim)

    @functools.cached_property
    def _checked_config(self) -> RegionFeaturesConfig:
        source_folder.check_is_folder(self._root, "train_ims.npy and train_caps.txt")
        # Taken first: a file that changes while we read it will differ the next time.
        fingerprint = numpy_layout.fingerprint(self._root)
        splits = numpy_layout.open_layout(self._root)
        config = RegionFeaturesConfig(
            name=self.config_name,
            root=os.fspath(self._root),
            splits=splits,
            fingerprint=fingerprint,
        )
        path = next(iter(splits.values())).features.path
        check_dim(f"{path}: holds features", config.dim, self._region_dim)
        return config


def check_dim(holds_features: str, dim: int, expected: int) -> None:
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
            "data.region_dim (0 takes any)"
        )
