"""The dataset `image_folder`: a folder of one's own photos, and a file of captions.

The file is `captions.csv` or `captions.jsonl` in the folder, or what `data.annotations`
names: UTF-8, one caption a row with the columns (or keys) `image`, the photo's path
below the folder, and `caption`; and optionally `split`. A photo has as many captions as
rows. Without a column `split`, a hash of the photo's path chooses: 80% train, 10% dev,
10% test, so that adding photos moves none of the others to another split.
"""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from vse_jax.data.datasets import captioned_photos
from vse_jax.data.datasets.captioned_photos import ListedPhoto
from vse_jax.errors import InputError, unreadable

SPLITS = ("train", "restval", "dev", "val", "test")
_NAMES = ("captions.csv", "captions.jsonl")
_COLUMNS = ("image", "caption")
_SEED = 0  # of the splits; another one would be another dataset
_SHARES = (("train", 0.8), ("dev", 0.9), ("test", 1.0))  # cumulated

Row = dict[str, str]


class ImageFolder(captioned_photos.CaptionedPhotos):
    """One example a photo: `image_id` (its path), `captions` and `image`."""

    VERSION = tfds.core.Version("1.0.0")


class ImageFolderSource(captioned_photos.CaptionedPhotosSource):
    """The folder `data.root` with photos, and their captions."""

    builder_class = ImageFolder
    holds = "your photos and captions.csv or captions.jsonl"

    def find_annotations(self, root: epath.Path) -> epath.Path:
        """Returns the only file of captions that has a name that we know."""
        found = [root / name for name in _NAMES if (root / name).exists()]
        if len(found) != 1:
            names = " and ".join(path.name for path in found) or "none"
            raise InputError(
                f"{root}: expected {' or '.join(_NAMES)}, found {names}; set "
                "data.annotations to the file of captions"
            )
        return found[0]

    def read_annotations(self, path: epath.Path) -> dict[str, list[ListedPhoto]]:
        """Returns the photos of each split, in the order of their first rows."""
        return read_captions(path)


@dataclasses.dataclass
class _Entry:
    """What the rows of one photo say."""

    line: int  # of its first row
    split: str
    captions: list[str]


def read_captions(path: epath.Path) -> dict[str, list[ListedPhoto]]:
    """Returns the photos of each split, in the order of their first rows.

    Args:
      path: of a CSV file or, if it ends with `.jsonl`, of JSON lines.

    Raises:
      InputError: if a row is not as it should be; names its line.
    """
    rows = _rows_of_json if path.suffix == ".jsonl" else _rows_of_csv
    entries: dict[str, _Entry] = {}
    for line, row in rows(path, _read_text(path)):
        _add(entries, f"{path}: line {line}", line, row)
    if not entries:
        raise InputError(f"{path}: has no rows; expected one for each caption")
    splits: dict[str, list[ListedPhoto]] = {name: [] for name in SPLITS}
    for image, entry in entries.items():
        photo = ListedPhoto(image, tuple(entry.captions), (image,))
        splits[entry.split].append(photo)
    return {name: listed for name, listed in splits.items() if listed}


def hashed_split(image: str) -> str:
    """Returns the split of a photo by its path: 80% train, 10% dev, 10% test."""
    digest = hashlib.sha256(f"split {_SEED} {image}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(name for name, share in _SHARES if place < share)


def _add(entries: dict[str, _Entry], where: str, line: int, row: Row) -> None:
    image = captioned_photos.path_below_root(_value(where, row, "image"))
    if image is None:
        raise InputError(
            f"{where} has the image {row['image']!r}, which leads out of the folder; "
            "expected a path below data.root"
        )
    caption = _value(where, row, "caption")
    split = _split(where, row) if "split" in row else hashed_split(image)
    entry = entries.setdefault(image, _Entry(line, split, []))
    if entry.split != split:
        raise InputError(
            f"{where} puts {image} into {split!r}, but line {entry.line} into "
            f"{entry.split!r}; expected every image in one split"
        )
    entry.captions.append(caption)


def _split(where: str, row: Row) -> str:
    split = _value(where, row, "split")
    captioned_photos.check_split(where, split, SPLITS)
    return split


def _value(where: str, row: Row, column: str) -> str:
    value = row[column].strip()
    if not value:
        raise InputError(f"{where} has an empty {column}; fill it or remove the row")
    return value


def _read_text(path: epath.Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        raise InputError(
            f"{path}: line {line} is not UTF-8 (byte {byte:#04x}); convert the file, "
            "such as by iconv -f latin1 -t utf-8"
        ) from None


def _rows_of_csv(path: epath.Path, text: str) -> Iterator[tuple[int, Row]]:
    """Yields each row, and the line at which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}: line {line} is no CSV ({error})") from None
        if fields is None:
            return
        if not fields:
            continue
        if columns is None:
            columns = [field.strip() for field in fields]
            _check_columns(f"{path}: line {line}", columns)
            continue
        if len(fields) != len(columns):
            raise InputError(
                f"{path}: line {line} has {len(fields)} fields; expected "
                f"{len(columns)} ({','.join(columns)}): put captions that hold commas "
                "into quotes"
            )
        yield line, dict(zip(columns, fields, strict=True))


def _rows_of_json(path: epath.Path, text: str) -> Iterator[tuple[int, Row]]:
    has_splits = None
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        where = f"{path}: line {line}"
        row = _parse(where, content)
        if has_splits is None:
            has_splits = "split" in row
        _check_columns(where, row, (*_COLUMNS, *(("split",) if has_splits else ())))
        if "split" in row and not has_splits:
            raise InputError(
                f"{where} has a split, but rows above have none; expected one in every "
                "row, or in none"
            )
        yield line, row


def _parse(where: str, content: str) -> Row:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}); expected an object") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} is no JSON object; expected image and caption")
    known = {key: row[key] for key in (*_COLUMNS, "split") if key in row}
    for key, value in known.items():
        if not isinstance(value, str):
            raise InputError(f"{where} has a {key} that is no text: {value!r:.60}")
        captioned_photos.check_text(where, key, value)
    return known


def _check_columns(where, columns, expected: tuple[str, ...] = _COLUMNS) -> None:
    for column in expected:
        if column not in columns:
            raise InputError(
                f"{where} has no {column!r}, but {', '.join(columns) or 'nothing'}; "
                "expected image, caption and optionally split"
            )
