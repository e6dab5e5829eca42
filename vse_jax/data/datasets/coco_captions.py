"""The dataset `coco_captions`: TFDS's own, which it downloads and prepares itself.

COCO 2014 in Karpathy's splits (Karpathy and Fei-Fei, CVPR 2015): train, restval, val
and test. Its examples keep TFDS's names of fields, which `vse_jax.data.records` knows.
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
        """Takes the `data` group of the config.

        Raises:
          InputError: if it names the prepared data, of which there is but one.
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
        """Returns None: what TFDS downloads does not change."""
        return None

    def check_source(self) -> None:
        """Does nothing: only the download shows whether there is a source."""

    def splits(self) -> None:
        """Returns None: only TFDS knows them."""

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
        """Does nothing: there are no options."""
