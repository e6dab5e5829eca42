"""Sources of galleries: a folder of photos, a text file of captions, or a split.

A source lists its rows with an ID each, and yields the contents of some rows in the
form that `RetrievalModel.embed_stream` takes. Invalid photos are skipped and counted.
"""

import collections
import functools
import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from vse_jax import files, storage
from vse_jax.data import input_pipeline
from vse_jax.data.datasets import photo_formats, source_folder
from vse_jax.data.datasets.photos import PhotoError
from vse_jax.data.records import content_of
from vse_jax.data.split_index import SplitIndex
from vse_jax.errors import InputError, unreadable
from vse_jax.excerpts import printable
from vse_jax.experiment import Experiment
from vse_jax.gallery.manifest import CAPTIONS, IMAGES
from vse_jax.gallery.rows import Record
from vse_jax.image_inputs import ImageInput
from vse_jax.text_files import read_text
from vse_jax.threads import in_order

logger = logging.getLogger(__name__)

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
    *(".heic", ".heif", ".jxl"),  # not decoded, but reported
)
_NAMED = 1_000  # skipped photos that are logged, one line each

Content = tuple[int, np.ndarray]  # number of a row and the content of its image


class PhotoFolder:
    """Photos at any depth below a folder.

    The ID of a photo is its path below the folder. Files are photos by their suffix,
    see `PHOTO_SUFFIXES`, or, in a local folder, by their first bytes. Hidden files and
    folders are ignored.

    Attributes:
      content: what a gallery of it has.
      ids, sizes, modified: of all rows, see `rows.Record`.
      skipped: number of photos that could not be decoded so far.
    """

    content = IMAGES

    def __init__(self, root: epath.Path):
        """Lists the photos.

        Raises:
          InputError: if the folder cannot be read or has no photo.
        """
        self._root = epath.Path(files.absolute(os.fspath(root)))
        self.skipped = 0
        found = sorted(_photos_below(self._root))
        if not found:
            raise InputError(
                f"{self._root}: has no photos; expected files that end with "
                f"{', '.join(PHOTO_SUFFIXES)}, in any subfolder"
            )
        self.ids, self.sizes, times = map(list, zip(*found, strict=True))
        self.modified = [time / 1e9 for time in times]

    @property
    def options(self) -> dict:
        """What a gallery remembers of the source."""
        return {"source": os.fspath(self._root)}

    @property
    def name(self) -> str:
        """Name of a folder for a gallery of the source."""
        return source_folder.name_of(self._root)

    def record(self, row: int) -> Record:
        """Returns what a row is."""
        name = self.ids[row]
        path = os.fspath(source_folder.below(self._root, name))
        return Record(name, path, None, self.sizes[row], self.modified[row])

    def contents(self, rows: Sequence[int], images: ImageInput) -> Iterator[Content]:
        """Yields the contents of rows; skips, logs and counts invalid photos.

        Args:
          rows: numbers of the rows.
          images: input of the model.
        """
        images.check_takes_photos()

        def read(row):
            try:
                return row, images.read(source_folder.below(self._root, self.ids[row]))
            except PhotoError as error:
                return row, error

        for row, content in in_order(read, rows):
            if isinstance(content, PhotoError):
                self._skip(row, content)
            else:
                yield row, content

    def _skip(self, row, error):
        self.skipped += 1
        if self.skipped <= _NAMED:
            path = printable(source_folder.below(self._root, self.ids[row]))
            logger.warning("skipping %s: %s", path, error)
        elif self.skipped == _NAMED + 1:
            logger.warning("skipping more photos; they are counted but not logged")


def _photos_below(root: epath.Path) -> Iterator[tuple[str, int, int]]:
    """Yields path below the root, size in bytes and time in nanoseconds of photos."""
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    linked: list[str] = []
    list_folder = storage.list_folder
    if files.is_local(root):
        list_folder = functools.partial(_list_local, linked=linked)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        statuses, folders = list_folder(source_folder.below(root, folder))
        prefix = f"{folder}/" if folder else ""
        waiting += [f"{prefix}{name}" for name in folders if not name.startswith(".")]
        for name, (size, time) in statuses.items():
            path = source_folder.below(root, prefix + name)
            if _is_photo(path, name) and _has_utf8_name(path, prefix + name):
                yield prefix + name, size, time
    if linked:
        logger.warning(
            "%s: linked folders whose photos are left out: %d, such as %s; replace "
            "the links by folders to include them",
            root,
            len(linked),
            printable(min(linked)),
        )


def _is_photo(path: epath.Path, name: str) -> bool:
    if name.startswith("."):
        return False
    return name.lower().endswith(PHOTO_SUFFIXES) or _begins_like_a_photo(path)


def _begins_like_a_photo(path: epath.Path) -> bool:
    if not files.is_local(path):
        return False  # a request for each file would take long
    try:
        with files.open_binary(path) as file:
            return photo_formats.recognized(file.read(16)) is not None
    except OSError:
        return False


def _has_utf8_name(path: epath.Path, name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        logger.warning("skipping %s: its name is not UTF-8; rename it", printable(path))
        return False
    return True


def _list_local(folder: epath.Path, linked: list[str]):
    """Lists sizes and times of files, and names of folders; follows no linked folder.

    A linked folder may contain itself.

    Args:
      folder: its path.
      linked: receives the paths of linked folders that are not hidden.
    """
    statuses, folders = {}, []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = os.fsencode(entry.name).decode(errors="surrogateescape")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif entry.is_symlink() and entry.is_dir():
                    if not name.startswith("."):
                        linked.append(entry.path)
                elif status := _status(entry):
                    statuses[name] = status
    except OSError as error:
        raise unreadable(folder, error) from None
    return statuses, folders


def _status(entry: os.DirEntry) -> tuple[int, int] | None:
    try:
        status = entry.stat()
    except OSError:  # a broken link
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        # What is named like a photo is not left out without a word: it is skipped when
        # it is read.
        if not entry.name.lower().endswith(PHOTO_SUFFIXES):
            return None
        status = entry.stat(follow_symlinks=False)
    return status.st_size, status.st_mtime_ns


class CaptionFile:
    """A text file with one caption per line; blank lines are skipped.

    The ID of a caption is a digest of its text, so that lines may move.
    """

    content = CAPTIONS
    skipped = 0

    def __init__(self, path: epath.Path):
        """Reads the captions.

        Raises:
          InputError: see `read_lines`.
        """
        self._path = epath.Path(files.absolute(os.fspath(path)))
        self._captions = read_lines(self._path)
        digests = [
            hashlib.sha256(caption.encode()).hexdigest()[:16]
            for caption in self._captions
        ]
        self.ids = _unique(digests)
        self.sizes = self.modified = None

    @property
    def options(self) -> dict:
        """What a gallery remembers of the source."""
        return {"source": os.fspath(self._path)}

    @property
    def name(self) -> str:
        """Name of a folder for a gallery of the source."""
        return source_folder.name_of(self._path)

    def record(self, row: int) -> Record:
        """Returns what a row is."""
        return Record(self.ids[row], captions=[self._captions[row]])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Returns the captions of rows."""
        return [self._captions[row] for row in rows]


class Split:
    """The images or the captions of a split of a prepared dataset."""

    skipped = 0

    def __init__(self, experiment: Experiment, split: str, content: str):
        """Indexes the split.

        Args:
          experiment: experiment with the dataset.
          split: name of the split.
          content: `images` or `captions`.

        Raises:
          InputError: if the split does not exist or cannot be read.
        """
        config = experiment.config
        self.content = content
        self._experiment, self._split = experiment, split
        self._index = input_pipeline.split_index(
            experiment.builder, split, config.data.tokenizer
        )
        splits = experiment.identity.splits
        digests = [splits[part].digest for part in split.split("+")]
        self._digest = hashlib.sha256("".join(digests).encode()).hexdigest()
        offset = self._index.caption_offset
        self.ids = image_ids = image_row_ids(self._index)
        if content == CAPTIONS:
            self.ids = [
                f"{image_id}#{number}"
                for row, image_id in enumerate(image_ids)
                for number in range(offset[row + 1] - offset[row])
            ]
        self.sizes = self.modified = None

    @property
    def options(self) -> dict:
        """What a gallery remembers of the source."""
        data = self._experiment.config.data
        return {
            "source": f"{self._experiment.builder.data_dir}",
            "split": self._split,
            "digest": self._digest,
            "crops": data.crops,
        }

    @property
    def name(self) -> str:
        """Name of a folder for a gallery of the source."""
        suffix = "" if self.content == IMAGES else "-captions"
        return f"{self._split}{suffix}-{self._digest[:6]}"

    def record(self, row: int) -> Record:
        """Returns what a row is."""
        if self.content == CAPTIONS:
            return Record(self.ids[row], captions=[self._index.captions[row]])
        first, behind = self._index.caption_offset[row : row + 2]
        return Record(self.ids[row], captions=self._index.captions[first:behind])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Returns the captions of rows."""
        return [self._index.captions[row] for row in rows]

    def contents(self, rows: Sequence[int], images: ImageInput) -> Iterator[Content]:
        """Yields the contents of rows, see `PhotoFolder.contents`."""
        key = content_of(self._experiment.builder).key
        batches = input_pipeline.image_batches(
            self._experiment.builder, self._split, self._experiment.config, numbers=rows
        )
        del images  # the pipeline crops as the model needs
        for batch in batches:
            for place in np.flatnonzero(batch["image_index"] >= 0):
                content = batch[key][place]
                if key == "regions":
                    content = content[: batch["region_count"][place]]
                yield int(batch["image_index"][place]), content


def image_row_ids(index: SplitIndex) -> list[str]:
    """Returns the IDs of a gallery's rows for the records of a split, in order."""
    return _unique([index.image_id_of(row) for row in range(index.image_count)])


def read_lines(path: epath.Path) -> list[str]:
    """Returns the lines of a text that are not blank, without outer spaces.

    Raises:
      InputError: if the file cannot be read, has an encoding that `read_text` does not
        read, or has no such line.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path}: has no captions; expected one per line")
    return lines


def _unique(names: Sequence[str]) -> list[str]:
    """Numbers repeated names: `a`, `b`, `a~2`."""
    counts = collections.Counter()
    unique = []
    for name in names:
        counts[name] += 1
        unique.append(name if counts[name] == 1 else f"{name}~{counts[name]}")
    return unique
