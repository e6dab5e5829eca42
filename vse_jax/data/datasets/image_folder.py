"""The dataset `image_folder`: a folder of photos and a captions file.

`caption_files` describes the supported files. `_NAMES` below lists the files that are
found without `config.data.annotations`. A photo may have any number of captions. Its
path is relative to the root, or absolute and below the root.

A column `split` is optional. Its values `val`, `valid` and `validation` mean `dev`.
Without the column, a hash of the photo's path chooses the split: 80% train, 10% dev,
10% test. Added photos therefore do not change the splits of other photos. For COCO's
annotations the file name determines the split: `captions_val2017.json` is `dev`.
"""

import dataclasses
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable

import tensorflow_datasets as tfds
from etils import epath

from vse_jax.data.datasets import (
    caption_files,
    captioned_photos,
    coco_annotations,
    photo_source,
)
from vse_jax.data.datasets.caption_files import Leniency
from vse_jax.data.datasets.caption_row import CaptionRow
from vse_jax.data.datasets.photo_places import (
    ListedPhoto,
    path_below_root,
    with_slashes,
)
from vse_jax.data.datasets.photo_source import Annotations
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt, names

logger = logging.getLogger(__name__)

SPLITS = ("train", "restval", "dev", "test")
_SYNONYMS = {"val": "dev", "valid": "dev", "validation": "dev"}
_NAMES = (
    "captions.csv",
    "captions.tsv",
    "captions.txt",
    "captions.jsonl",
    "captions.json",
    "metadata.csv",  # Hugging Face's
    "metadata.jsonl",
    "results.csv",  # Kaggle's Flickr30K
    "Flickr8k.token.txt",
    "results_20130124.token",  # Flickr30K
)
_SEED = 0  # of the splits; another seed would give another dataset
_SHARES = (("train", 0.8), ("dev", 0.9), ("test", 1.0))  # cumulative


class ImageFolder(captioned_photos.CaptionedPhotos):
    """Examples of one photo each: `image_id` (its path), `captions` and `image`."""

    VERSION = tfds.core.Version("2.0.0")


class ImageFolderSource(photo_source.CaptionedPhotosSource):
    """A folder (`config.data.root`) with photos and a captions file."""

    builder_class = ImageFolder
    holds = "your photos and captions.csv or captions.jsonl"

    def find_annotations(self, root: epath.Path) -> Annotations:
        """Returns the only captions file with a known name, or all files of COCO."""
        found = [root / name for name in _NAMES if (root / name).exists()]
        of_coco = [
            path
            for folder in (root, root / "annotations")
            for path in sorted(folder.glob(coco_annotations.PATTERN))
        ]
        if of_coco and not found:
            _check_splits(of_coco)
            return tuple(of_coco)
        if len(found) != 1 or of_coco:
            shown = names([path.name for path in found + of_coco]) or "none"
            raise InputError(
                f"{root}: expected one captions file, such as captions.csv or "
                f"captions.jsonl, found {shown}{_hint(root)}; set "
                "config.data.annotations to the captions file"
            )
        for path in sorted(root.glob("*trainImages.txt")):
            logger.warning(
                "%s is not read: the splits are chosen by a hash of the paths; put the "
                "captions into a table with a column 'split' to use other splits",
                path,
            )
        return tuple(found)

    def read_annotations(
        self, paths: Annotations, root: epath.Path
    ) -> dict[str, list[ListedPhoto]]:
        """Returns the photos of each split, in the order of their first rows."""
        return read_captions(paths, root, Leniency(self._strict, self._allowed_missing))


def _check_splits(paths: list[epath.Path]) -> None:
    """Raises InputError for two COCO files of one split, such as 2014 and 2017."""
    by_split: dict[str | None, epath.Path] = {}
    for path in paths:
        split = coco_annotations.split_of(path)
        first = by_split.setdefault(_SYNONYMS.get(split, split), path)
        if len(paths) > 1 and (first != path or split is None):
            raise InputError(
                f"{path.parent}: holds {names([p.name for p in paths])}; expected one "
                "file for each split (train, val, test) in the file names; set "
                "config.data.annotations to one of them"
            )


def _hint(root: epath.Path) -> str:
    karpathys = next(iter(root.glob("dataset_*.json")), None)
    if karpathys is None:
        return ""
    return f" ({karpathys.name} is read with config.data.builder=karpathy_images)"


@dataclasses.dataclass
class _Entry:
    """The collected rows of a photo.

    Attributes:
      where: file and line of the first row.
      split: one of `SPLITS`.
      captions: captions of all rows so far.
      places: possible paths below the root.
    """

    where: str
    split: str
    captions: list[str]
    places: tuple[str, ...]


def read_captions(
    paths: Iterable[epath.Path], root: epath.Path, leniency: Leniency
) -> dict[str, list[ListedPhoto]]:
    """Returns the photos of each split, in the order of their first rows.

    Args:
      paths: paths of the captions files.
      root: the folder with the photos.
      leniency: how to treat invalid rows.

    Raises:
      InputError: if a row is invalid; the message names its line.
    """
    reader = _Reader(root)
    for path in paths:
        prefix = path_below_root(os.fspath(path.parent), os.fspath(root)) or ""
        rows = list(caption_files.read_rows(path, leniency))
        if not rows:
            raise InputError(f"{path}: has no rows; expected one for each caption")
        for row in rows:
            reader.add(row, prefix)
    splits: dict[str, list[ListedPhoto]] = {name: [] for name in SPLITS}
    for image, entry in reader.entries.items():
        photo = ListedPhoto(image, tuple(entry.captions), entry.places)
        splits[entry.split].append(photo)
    return {name: listed for name, listed in splits.items() if listed}


def hashed_split(image: str) -> str:
    """Returns the split for a hash of the path: 80% train, 10% dev, 10% test."""
    digest = hashlib.sha256(f"split {_SEED} {image}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(name for name, share in _SHARES if place < share)


class _Reader:
    """Groups the rows of all files by photo."""

    def __init__(self, root: epath.Path):
        self.entries: dict[str, _Entry] = {}
        self._root = os.fspath(root)
        # Results of `_image` by listed path, folder and prefix.
        self._images: dict[tuple[str, str, str], tuple[str, tuple[str, ...], str]] = {}
        self._spelling: dict[str, tuple[str, str]] = {}  # and its row, for each split

    def add(self, row: CaptionRow, prefix: str) -> None:
        """Adds a row of a captions file in the folder `prefix` below the root."""
        for caption in row.captions:
            photo_source.check_text(row.where, "caption", caption)
        if not row.captions:
            raise InputError(
                f"{row.where} has an empty caption; fill it or remove the row"
            )
        key = row.image, row.folder, prefix
        if key not in self._images:
            self._images[key] = self._image(row, prefix)
        image, places, hashed = self._images[key]
        split = hashed if row.split is None else self._split(row)
        entry = self.entries.setdefault(image, _Entry(row.where, split, [], places))
        if entry.split != split:
            raise InputError(
                f"{row.where} has {excerpt(image)} in {split!r}, but {entry.where} has "
                f"it in {entry.split!r}; expected every image in one split"
            )
        entry.captions += row.captions

    def _image(self, row: CaptionRow, prefix: str) -> tuple[str, tuple[str, ...], str]:
        """Returns the image_id, the possible paths and the hashed split of a photo."""
        photo_source.check_text(row.where, "image", row.image)
        listed = row.image.strip()
        if not listed:
            raise InputError(
                f"{row.where} has an empty image; fill it or remove the row"
            )
        # A backslash may be a Windows separator or part of a name.
        forms = dict.fromkeys((with_slashes(listed), listed))
        paths = [path_below_root(form, self._root) for form in forms]
        if None in paths:
            raise InputError(
                f"{row.where} has the image {excerpt(listed)}, which is outside of the "
                f"folder; expected a path below {self._root}"
            )
        folders = dict.fromkeys((row.folder, "", prefix))
        if row.folder:
            folders = dict.fromkeys((row.folder, f"images/{row.folder}", *folders))
        places = itertools.product(folders, paths)
        joined = (f"{folder}/{path}" if folder else path for folder, path in places)
        return paths[0], tuple(joined), hashed_split(paths[0])

    def _split(self, row: CaptionRow) -> str:
        spelling = row.split.strip().casefold()
        if not spelling:
            raise InputError(
                f"{row.where} has an empty split; fill it or remove the row"
            )
        split = _SYNONYMS.get(spelling, spelling)
        photo_source.check_split(row.where, split, SPLITS)
        first, where = self._spelling.setdefault(split, (spelling, row.where))
        if first != spelling:
            raise InputError(
                f"{row.where} has the split {spelling!r}, but {where} has {first!r}; "
                "both mean the validation split; expected only one of these names"
            )
        return split
