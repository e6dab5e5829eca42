"""The numpy layout that the PyTorch repos share: features, captions and ids of splits.

A folder holds for each split `{split}_ims.npy`, `{split}_caps.txt` and, optionally,
`{split}_ids.txt`.
"""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np
from etils import epath

from vse_jax.data.datasets import source_folder
from vse_jax.data.datasets.feature_array import FeatureArray, open_feature_array
from vse_jax.errors import InputError, unreadable

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test", "testall")
FEATURES_ENDING = "_ims.npy"
CAPTIONS_ENDING = "_caps.txt"
IDS_ENDING = "_ids.txt"
_REPEATS = 5  # how often the old layout holds every image
_SAMPLED_GROUPS = 32  # looked at to tell the old layout


@dataclasses.dataclass(frozen=True)
class LayoutSplit:
    """One split: `rows_per_image` consecutive, equal rows of `features` an image."""

    features: FeatureArray
    captions: list[str]  # those of image 0, those of image 1, ...
    image_ids: list[str]
    rows_per_image: int

    @property
    def image_count(self) -> int:
        """Number of images; each has as many captions as any other."""
        return len(self.image_ids)

    def captions_of(self, image: int) -> list[str]:
        """Returns the captions of an image by its number."""
        count = len(self.captions) // self.image_count
        return self.captions[image * count : (image + 1) * count]

    def images(
        self, start: int, stop: int, dtype: np.dtype
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields number and feature of images `start` to `stop - 1`.

        Yields:
          The image's number and `[regions, dim]` or `[dim]` of `dtype`.

        Raises:
          InputError: if a value is NaN or infinite, or too large for `dtype`, or if the
            rows of an image differ.
        """
        rows = self.rows_per_image
        for first, chunk in self.features.chunks(start * rows, stop * rows, rows):
            self._check_finite(chunk, first)
            self._check_repeats(chunk, first)
            converted = self._convert(chunk[::rows], first, dtype)
            yield from enumerate(converted, first // rows)

    def _check_finite(self, chunk: np.ndarray, first: int) -> None:
        if np.isfinite(chunk).all():
            return
        row, *place = np.argwhere(~np.isfinite(chunk))[0]
        raise InputError(
            f"{self._describe(first + row)} holds {chunk[row, *place]} at "
            f"{[int(i) for i in place]}; expected finite values: extract it again"
        )

    def _convert(self, chunk: np.ndarray, first: int, dtype: np.dtype) -> np.ndarray:
        with np.errstate(over="ignore"):
            converted = chunk.astype(dtype)
        overflown = np.argwhere(np.isinf(converted))
        if overflown.size:
            row, *place = overflown[0]
            raise InputError(
                f"{self._describe(first + row * self.rows_per_image)} holds "
                f"{chunk[row, *place]:g}, beyond the range of {np.dtype(dtype).name} "
                f"(+-{np.finfo(dtype).max:g}); scale the features down"
            )
        return converted

    def _check_repeats(self, chunk: np.ndarray, first: int) -> None:
        if self.rows_per_image == 1:
            return
        groups = _as_bytes(chunk).reshape(-1, self.rows_per_image, chunk[0].nbytes)
        differs = np.flatnonzero((groups != groups[:, :1]).any(axis=(1, 2)))
        if differs.size:
            raise _uneven_repeats(
                self.features, first + differs[0] * self.rows_per_image
            )

    def _describe(self, row: int) -> str:
        image_id = self.image_ids[row // self.rows_per_image]
        return f"{self.features.path}: row {row} (from 0; image id {image_id!r})"


def files_of(root: epath.Path) -> list[epath.Path]:
    """Returns the files of the layout that are in `root`, in a fixed order."""
    endings = (FEATURES_ENDING, CAPTIONS_ENDING, IDS_ENDING)
    paths = [root / f"{split}{ending}" for split in SPLITS for ending in endings]
    return [path for path in paths if path.exists()]


def fingerprint(root: epath.Path) -> dict[str, list[int]]:
    """Returns size in bytes and time of change of each file of the layout."""
    return {path.name: source_folder.size_and_time(path) for path in files_of(root)}


def open_layout(root: epath.Path) -> dict[str, LayoutSplit]:
    """Reads the captions and ids of all splits in a folder, and the features' headers.

    Returns:
      The splits by name, in the order of `SPLITS`; those whose files are absent are
      left out.

    Raises:
      InputError: if anything but the features' values is not as it should be.
    """
    names = {path.name for path in files_of(root)}
    splits = {
        split: _open_split(root, split)
        for split in SPLITS
        if {split + FEATURES_ENDING, split + CAPTIONS_ENDING} & names
    }
    if not splits:
        raise InputError(
            f"{root}: holds no split; expected files such as train{FEATURES_ENDING} "
            f"and train{CAPTIONS_ENDING} (train, dev, test or testall); see data.root"
        )
    _check_alike([split.features for split in splits.values()])
    return splits


def _open_split(root: epath.Path, split: str) -> LayoutSplit:
    _require(root / (split + FEATURES_ENDING), root / (split + CAPTIONS_ENDING))
    _require(root / (split + CAPTIONS_ENDING), root / (split + FEATURES_ENDING))
    features = open_feature_array(root / (split + FEATURES_ENDING))
    captions = _read_lines(root / (split + CAPTIONS_ENDING), "caption")
    row_count = features.shape[0]
    repeated = len(captions) == row_count and _is_repeated(features)
    rows_per_image = _REPEATS if repeated else 1
    image_count = row_count // rows_per_image
    _check_caption_count(
        root / (split + CAPTIONS_ENDING), captions, features, image_count
    )
    image_ids = _image_ids(root / (split + IDS_ENDING), image_count, len(captions))
    return LayoutSplit(features, captions, image_ids, rows_per_image)


def _require(path: epath.Path, companion: epath.Path) -> None:
    if not path.exists():
        raise InputError(
            f"{path}: is missing, though {companion.name} is there; add it, or remove "
            "the other to leave the split out"
        )


def _check_caption_count(
    path: epath.Path, captions: list[str], features: FeatureArray, image_count: int
) -> None:
    if not captions or len(captions) % image_count:
        raise InputError(
            f"{path}: has {len(captions)} captions for {image_count} images in "
            f"{features.path.name}; expected the same number for each image, in the "
            "order of the images"
        )


def _check_alike(arrays: list[FeatureArray]) -> None:
    """Refuses splits that differ in rank or dim, as one model has to read them all."""
    first = arrays[0]
    for array in arrays[1:]:
        if (array.has_regions, array.dim) != (first.has_regions, first.dim):
            raise InputError(
                f"{array.path}: has the shape {list(array.shape)}, but "
                f"{first.path.name} has {list(first.shape)}; expected the same rank "
                "and dim in every split"
            )


def _is_repeated(features: FeatureArray) -> bool:
    """Tells whether every image stands there five times, by a sample of the rows."""
    group_count, rest = divmod(features.shape[0], _REPEATS)
    if rest:
        return False
    sample = np.linspace(0, group_count - 1, min(group_count, _SAMPLED_GROUPS))
    equal = {int(i): _rows_are_equal(features, int(i) * _REPEATS) for i in sample}
    if len(set(equal.values())) > 1:
        group = next(i for i, is_equal in equal.items() if not is_equal)
        raise _uneven_repeats(features, group * _REPEATS)
    return equal[0]


def _rows_are_equal(features: FeatureArray, first: int) -> bool:
    rows = features.chunks(first, first + _REPEATS, _REPEATS)
    content = _as_bytes(next(rows)[1]).reshape(_REPEATS, -1)
    return bool((content == content[0]).all())


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    """Views rows as bytes, as NaN differs from itself and -0.0 does not from 0.0."""
    return rows.reshape(len(rows), -1).view(np.uint8)


def _uneven_repeats(features: FeatureArray, first: int) -> InputError:
    return InputError(
        f"{features.path}: rows {first} to {first + _REPEATS - 1} (from 0) differ, "
        "though other images are repeated five times; expected every image five times, "
        "or each once: extract it again"
    )


def _image_ids(path: epath.Path, image_count: int, caption_count: int) -> list[str]:
    """Returns an id for each image: from the file, or the image's number."""
    if not path.exists():
        return [str(image) for image in range(image_count)]
    ids = _read_lines(path, "id")
    if len(ids) == caption_count != image_count:
        ids = _one_id_an_image(path, ids, caption_count // image_count)
    if len(ids) != image_count:
        raise InputError(
            f"{path}: has {len(ids)} ids; expected {image_count}, one for each image "
            f"(or {caption_count}, one for each caption)"
        )
    duplicates = image_count - len(set(ids))
    if duplicates:
        logger.warning("%s: %d images repeat an earlier image's id", path, duplicates)
    return ids


def _one_id_an_image(path: epath.Path, ids: list[str], count: int) -> list[str]:
    for line, image_id in enumerate(ids):
        if image_id != ids[line - line % count]:
            raise InputError(
                f"{path}: line {line + 1} has the id {image_id!r}, but that image's "
                f"first caption has {ids[line - line % count]!r}; expected the image's "
                "id on each of its lines (remove the file to number the images)"
            )
    return ids[::count]


def _read_lines(path: epath.Path, kind: str) -> list[str]:
    """Reads stripped UTF-8 lines.

    Only a line feed ends a line: characters such as U+2028, at which `str.splitlines`
    breaks, occur inside captions.
    """
    try:
        with path.open("rb") as file:
            return [_decode(path, kind, *line) for line in enumerate(file, 1)]
    except OSError as error:
        raise unreadable(path, error) from None


def _decode(path: epath.Path, kind: str, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: line {number} is not UTF-8 (byte {line[error.start]:#04x} at "
            f"{error.start}); convert the file, such as by iconv -f latin1 -t utf-8"
        ) from None
    if not text:
        raise InputError(
            f"{path}: line {number} is empty; expected one {kind} on every line"
        )
    return text
