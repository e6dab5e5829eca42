"""The dataset `coco_captions`, which TFDS downloads and prepares.

It is COCO 2014 with Karpathy's splits (Karpathy and Fei-Fei, CVPR 2015): train,
restval, val and test. Examples keep TFDS's field names; see `vse_jax.data.records`.
"""

import ml_collections
import tensorflow_datasets as tfds
from etils import epath

from vse_jax.errors import InputError


class CocoCaptionsSource:
    """TFDS's builder `coco_captions`."""

    builder_name = "coco_captions"
    downloads = True

    def __init__(self, data: ml_collections.ConfigDict):
        """Initializes the source from `config.data`.

        Raises:
          InputError: if `config.data.name` is set, as TFDS names the prepared data.
        """
        if data.name:
            raise InputError(
                f"config.data.name is {data.name!r}; expected '' for coco_captions, "
                "whose folder TFDS names"
            )
        config = tfds.builder_cls(self.builder_name).BUILDER_CONFIGS[0]
        self.config_name = config.name
        self.version = config.version

    def fingerprint(self) -> dict | None:
        """Returns None, because TFDS's downloads do not change."""
        return None

    def check_source(self) -> None:
        """Does nothing, because only the download can fail."""

    def splits(self) -> None:
        """Returns None, because only TFDS knows the splits."""

    def builder(
        self, data_dir: epath.Path, version: tfds.core.Version
    ) -> tfds.core.DatasetBuilder:
        """Returns TFDS's builder."""
        return tfds.builder(
            f"{self.builder_name}/{self.config_name}:{version}",
            data_dir=data_dir,
            file_format="array_record",
        )

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Does nothing, because the dataset has no options."""
