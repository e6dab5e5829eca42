"""Opens the folder of features, captions and ids of splits of the PyTorch repositories.

`vse_jax.data.datasets.region_features` describes its files.
"""

import functools
import logging
from collections.abc import Sequence

import numpy as np
from etils import epath

from vse_jax.data.datasets import (
    bottom_up_tsv,
    hdf5_features,
    layout_captions,
    padded_features,
)
from vse_jax.data.datasets.feature_array import (
    COUNTS_ENDING,
    FEATURES_ENDING,
    RowArray,
    open_feature_array,
)
from vse_jax.data.datasets.layout_captions import SplitCaptions
from vse_jax.data.datasets.layout_files import (
    CAPTIONS_ENDING,
    IDS_ENDING,
    SPLITS,
    FeatureFiles,
    names_in,
    own_features,
    shared_features,
    splits_in,
)
from vse_jax.data.datasets.layout_split import ImageFeatures, LayoutSplit
from vse_jax.data.datasets.padded_features import PaddedFeatures
from vse_jax.errors import InputError

logger = logging.getLogger(__name__)


def open_layout(root: epath.Path) -> dict[str, LayoutSplit]:
    """Reads the captions and ids of all splits in a folder, and checks the features.

    It reads the headers of features, and the lines of TSV files, but no values.

    Returns:
      The splits by name, in the order of `SPLITS`; those whose files are absent are
      left out.

    Raises:
      InputError: if anything but the features' values is invalid.
    """
    names = names_in(root)
    splits = splits_in(names)
    if not splits:
        raise InputError(
            f"{root}: holds no split; expected files such as train{FEATURES_ENDING} "
            f"and train{CAPTIONS_ENDING} (train, dev, test or testall; also train.tsv "
            "or train.h5 for the features); see config.data.root"
        )
    _warn_of_other_splits(root, names)
    opener = _Opener(root, names)
    opened = {split: opener.open(split) for split in splits}
    opener.log_unused(opened)
    _check_alike([split.features for split in opened.values()])
    return opened


def _warn_of_other_splits(root: epath.Path, names: Sequence[str]) -> None:
    for ending in (FEATURES_ENDING, CAPTIONS_ENDING):
        for name in names:
            if name.endswith(ending) and name.removesuffix(ending) not in SPLITS:
                logger.warning(
                    "%s: is not read; splits are named %s",
                    root / name,
                    ", ".join(SPLITS),
                )


class _Opener:
    """Opens the splits of a folder; indexes TSV files that they share once."""

    def __init__(self, root: epath.Path, names: Sequence[str]):
        self._root = root
        self._names = names
        self._index = functools.cache(self._index_tsv)
        self._indexes: list[bottom_up_tsv.TsvIndex] = []

    def _index_tsv(self, names: tuple[str, ...]) -> bottom_up_tsv.TsvIndex:
        index = bottom_up_tsv.index_files([self._root / name for name in names])
        self._indexes.append(index)
        return index

    def _path(self, split: str, ending: str) -> epath.Path:
        return self._root / (split + ending)

    def open(self, split: str) -> LayoutSplit:
        """Opens a split."""
        form, is_own = self._form(split)
        path = self._path(split, CAPTIONS_ENDING)
        if path.name not in self._names:
            companion = form.names[0] if form else split + COUNTS_ENDING
            raise InputError(
                f"{path}: is missing, though {companion} is there; add it, or remove "
                "the other to leave the split out"
            )
        if form is None:
            raise InputError(
                f"{self._path(split, FEATURES_ENDING)}: is missing, though "
                f"{path.name} is there; add it (or {split}.tsv or {split}.h5), or "
                "remove the other to leave the split out"
            )
        captions = layout_captions.read_lines(path, "caption")
        if form.kind == "tsv":
            return self._open_tsv(split, form, captions)
        if form.kind == "hdf5":
            return self._open_hdf5(split, form, captions, is_own)
        array = open_feature_array(self._root / form.names[0])
        return self._open_rows(split, array, captions)

    def _form(self, split: str) -> tuple[FeatureFiles | None, bool]:
        """Returns the only form of a split's features, and whether it is its own."""
        own = own_features(self._names, split)
        forms = own or shared_features(self._names)
        if len(forms) > 1:
            first, second = (form.names[0] for form in forms[:2])
            raise InputError(
                f"{self._root}: holds the features of {split!r} both in {first} and "
                f"in {second}; expected one of them: move the other elsewhere (or "
                "name each file after its split)"
            )
        return (forms[0] if forms else None), bool(own)

    def _open_rows(
        self,
        split: str,
        array: RowArray,
        captions: list[str],
        image_ids: list[str] | None = None,
        counts: tuple[str, np.ndarray] | None = None,
    ) -> LayoutSplit:
        """Opens an array whose rows are in the order of the captions."""
        repeats = padded_features.rows_per_image(array, len(captions))
        assigned = layout_captions.captions_of_rows(
            self._path(split, CAPTIONS_ENDING),
            captions,
            self._path(split, IDS_ENDING),
            array.shape[0] // repeats,
            array.path.name,
            image_ids if repeats == 1 else None,
        )
        return self._padded(split, array, repeats, assigned, counts)

    def _padded(
        self,
        split: str,
        array: RowArray,
        repeats: int,
        captions: SplitCaptions,
        counts: tuple[str, np.ndarray] | None,
    ) -> LayoutSplit:
        path = self._path(split, COUNTS_ENDING)
        checked, ids = None, captions.image_ids
        if path.name in self._names:
            if counts is not None:
                raise _second_counts(path, counts[0])
            checked = padded_features.read_counts(path, array, repeats, ids)
        elif counts is not None:
            checked = padded_features.check_counts(*counts, array, repeats, ids)
        features = PaddedFeatures(array, repeats, ids, checked, path)
        return LayoutSplit(features, captions, path)

    def _by_id(
        self, split: str, captions: list[str], features_name: str
    ) -> SplitCaptions:
        return layout_captions.captions_by_id(
            self._path(split, CAPTIONS_ENDING),
            captions,
            self._path(split, IDS_ENDING),
            features_name,
        )

    def _open_tsv(
        self, split: str, form: FeatureFiles, captions: list[str]
    ) -> LayoutSplit:
        counts_path, ids_path = self._no_counts(split, form.names[0])
        assigned = self._by_id(split, captions, form.names[0])
        index = self._index(form.names)
        layout_captions.check_ids_are_known(assigned, ids_path, index.rows, index.name)
        features = bottom_up_tsv.TsvFeatures(index, assigned.image_ids)
        return LayoutSplit(features, assigned, counts_path)

    def _open_hdf5(
        self, split: str, form: FeatureFiles, captions: list[str], is_own: bool
    ) -> LayoutSplit:
        path = self._root / form.names[0]
        ids_path = self._path(split, IDS_ENDING)
        content = hdf5_features.open_array(path)
        if content is None:
            counts_path, _ = self._no_counts(split, path.name)
            assigned = self._by_id(split, captions, path.name)
            features = hdf5_features.open_images(path, assigned, ids_path)
            return LayoutSplit(features, assigned, counts_path)
        counts = None
        if content.counts is not None:
            counts = (content.counts_name, content.counts)
        if content.image_ids is None and not is_own:
            raise InputError(
                f"{path}: has no image_ids, so that the images of {split!r} are not "
                f"known; add them, or name the file {split}{path.suffix} if its rows "
                f"are in the order of {split}{CAPTIONS_ENDING}"
            )
        by_id = content.image_ids is not None and ids_path.name in self._names
        if is_own and not by_id:
            ids = content.image_ids
            return self._open_rows(split, content.array, captions, ids, counts)
        assigned = self._by_id(split, captions, path.name)
        rows = content.rows_of(assigned, ids_path)
        if counts is not None:
            counts = (counts[0], counts[1][rows])
        return self._padded(split, content.array.select(rows), 1, assigned, counts)

    def _no_counts(
        self, split: str, features_name: str
    ) -> tuple[epath.Path, epath.Path]:
        """Returns the paths of counts, which must be absent, and of ids."""
        path = self._path(split, COUNTS_ENDING)
        if path.name in self._names:
            raise _second_counts(path, features_name)
        return path, self._path(split, IDS_ENDING)

    def log_unused(self, opened: dict[str, LayoutSplit]) -> None:
        """Logs how many lines of TSV files are of no split."""
        named = {name for split in opened.values() for name in split.image_ids}
        for index in self._indexes:
            unused = len(index.rows.keys() - named)
            if unused:
                logger.info(
                    "%s: %d of %d images are in no %s and are skipped",
                    index.name,
                    unused,
                    len(index.rows),
                    f"SPLIT{IDS_ENDING}",
                )


def _second_counts(path: epath.Path, other: str) -> InputError:
    return InputError(
        f"{path}: counts the regions a second time, as {other} has their numbers; "
        "remove the file"
    )


def _check_alike(arrays: list[ImageFeatures]) -> None:
    """Refuses splits that differ in rank or dim: one model must read all."""
    first = arrays[0]
    for array in arrays[1:]:
        if (array.has_regions, array.dim) != (first.has_regions, first.dim):
            raise InputError(
                f"{array.path}: has the shape {array.shape_text}, but "
                f"{first.path.name} has {first.shape_text}; expected the same rank and "
                "dim in every split"
            )
