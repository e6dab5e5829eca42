"""Features that `--mode=extract` writes, as a dataset `region_features` of its own.

The folder is in TFDS's layout: its shards, then `features.json` and, at the very end,
`dataset_info.json`. So it is opened by its path alone.
"""

import ml_collections
import tensorflow_datasets as tfds
from etils import epath

from vse_jax.data.datasets import source_folder
from vse_jax.data.datasets.region_features import RegionFeatures
from vse_jax.errors import InputError

FINGERPRINT_FILE = "extraction.json"
_METADATA_FILE = "dataset_info.json"


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
