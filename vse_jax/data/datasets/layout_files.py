"""Finds the files of each split in a folder, and their form."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from vse_jax import files
from vse_jax.data.datasets import source_folder
from vse_jax.data.datasets.feature_array import COUNTS_ENDING, FEATURES_ENDING
from vse_jax.errors import unreadable

SPLITS = ("train", "dev", "test", "testall")
CAPTIONS_ENDING = "_caps.txt"
IDS_ENDING = "_ids.txt"
_TEXT_AND_COUNTS = (CAPTIONS_ENDING, IDS_ENDING, COUNTS_ENDING)
_TSV = re.compile(r"(?P<stem>.+)\.tsv(\.\d+)?")
_HDF5 = re.compile(r"(?P<stem>.+)\.(h5|hdf5)")


class FeatureFiles(NamedTuple):
    """Files of features: one array or HDF5 file, or some of TSV."""

    kind: str  # npy, tsv or hdf5
    names: tuple[str, ...]


def own_features(names: Sequence[str], split: str) -> list[FeatureFiles]:
    """Returns the forms in which a split has features of its own."""
    forms = [FeatureFiles("npy", (split + FEATURES_ENDING,))]
    forms = [form for form in forms if form.names[0] in names]
    tsv = [name for name in names if _stem(_TSV, name) == split]
    if tsv:
        forms.append(FeatureFiles("tsv", tuple(tsv)))
    hdf5 = [name for name in names if _stem(_HDF5, name) == split]
    return forms + [FeatureFiles("hdf5", (name,)) for name in hdf5]


def shared_features(names: Sequence[str]) -> list[FeatureFiles]:
    """Returns the forms of files that are not of one split."""
    tsv = [n for n in names if _stem(_TSV, n) not in (None, *SPLITS)]
    hdf5 = [n for n in names if _stem(_HDF5, n) not in (None, *SPLITS)]
    forms = [FeatureFiles("tsv", tuple(tsv))] if tsv else []
    return forms + [FeatureFiles("hdf5", (name,)) for name in hdf5]


def _stem(pattern: re.Pattern, name: str) -> str | None:
    match = pattern.fullmatch(name)
    return match and match["stem"]


def names_in(root: epath.Path) -> list[str]:
    """Returns the names in a folder, those of parts of files by their numbers.

    Raises:
      InputError: if the folder cannot be read.
    """
    try:
        return sorted(
            (path.name for path in root.iterdir()),
            key=lambda name: [
                (part.isdecimal(), int(part) if part.isdecimal() else 0, part)
                for part in re.split(r"(\d+)", name)
            ],
        )
    except OSError as error:
        raise unreadable(root, error) from None


def splits_in(names: Sequence[str]) -> list[str]:
    """Returns the splits of which there are features, captions or counts."""
    return [
        split
        for split in SPLITS
        if own_features(names, split)
        or {split + CAPTIONS_ENDING, split + COUNTS_ENDING} & set(names)
    ]


def _files_of(root: epath.Path) -> list[epath.Path]:
    """Returns the files in `root` that the dataset is prepared from, in a fixed order.

    Raises:
      InputError: if the folder cannot be read.
    """
    names = names_in(root)
    forms = [own_features(names, split) for split in splits_in(names)]
    if not all(forms):
        forms.append(shared_features(names))
    chosen = {name for some in forms for form in some for name in form.names}
    chosen |= {split + ending for split in SPLITS for ending in _TEXT_AND_COUNTS}
    return [root / name for name in names if name in chosen]


def fingerprint(root: epath.Path) -> dict[str, list[int]]:
    """Returns size in bytes and time of change of each file of the layout.

    Raises:
      InputError: if the folder or a file cannot be read, such as a broken link.
    """
    paths = _files_of(root)
    try:
        statuses = files.sizes_and_times(paths)
    except OSError as error:
        raise source_folder.unreadable_among(paths, error) from None
    return {path.name: status for path, status in zip(paths, statuses, strict=True)}
