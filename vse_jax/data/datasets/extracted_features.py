"""Opens features that `--mode=extract` wrote, as a dataset `region_features`.

The folder has TFDS's layout, so its path suffices to open it. Extraction writes the
shards first, then `features.json`, and `dataset_info.json` last.
"""

import json

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.array_files import read_npz
from vse_jax.data.datasets import source_folder
from vse_jax.data.datasets.region_features import RegionFeatures
from vse_jax.errors import InputError, unreadable

DESCRIPTION_FILE = "extraction.json"
PCA_FILE = "pca.npz"
_METADATA_FILE = "dataset_info.json"


def is_extracted(data: ml_collections.ConfigDict) -> bool:
    """Returns whether `config.data.root` is an extraction or a TFDS dataset."""
    root = source_folder.absolute(data.root)
    return (
        data.builder == RegionFeatures.name
        and root is not None
        and any((root / name).exists() for name in (_METADATA_FILE, DESCRIPTION_FILE))
    )


def description(builder: tfds.core.DatasetBuilder) -> dict | None:
    """Returns how the features were extracted; None if they were not extracted.

    Raises:
      InputError: if the description is damaged.
    """
    path = epath.Path(builder.data_dir) / DESCRIPTION_FILE
    if not path.exists():
        return None
    return read_description(path)


def read_description(path: epath.Path) -> dict:
    """Reads `extraction.json`.

    Raises:
      InputError: if it cannot be read or is damaged.
    """
    try:
        return json.loads(files.read_bytes(path))
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError:
        raise InputError(
            f"{path}: is damaged; delete {path.parent} and extract again"
        ) from None


def pca_arrays(builder: tfds.core.DatasetBuilder) -> dict[str, np.ndarray]:
    """Returns the arrays of the PCA that was applied to the features; may be empty."""
    path = epath.Path(builder.data_dir) / PCA_FILE
    return read_pca(path) if path.exists() else {}


def read_pca(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads `pca.npz`.

    Raises:
      InputError: if it cannot be read or is damaged.
    """
    try:
        return read_npz(files.read_bytes(path))
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError:
        raise InputError(
            f"{path}: is damaged; delete {path.parent} and extract again"
        ) from None


def incomplete(directory: epath.Path) -> InputError:
    """Returns the error for an extraction that is not complete."""
    return InputError(
        f"{directory}: the features are incomplete; run --mode=extract again with the "
        "same options to complete them"
    )


def check_features(builder: tfds.core.DatasetBuilder) -> None:
    """Raises InputError if a dataset has no features.

    `config.data.region_dim` does not apply: the model takes the dimensions from the
    dataset.

    Args:
      builder: builder of the dataset.
    """
    features = builder.info.features
    if not {"regions", "feature"} & set(features):
        raise InputError(
            f"{builder.data_dir}: examples hold {', '.join(features)}; expected "
            "regions or feature; set config.data.root to a folder of features"
        )
