"""COCO's 5,000 test images and 25,000 captions, which CxC and ECCV Caption judge.

The package `eccv-caption` has their numbers: COCO's image IDs, and the IDs of COCO's
annotations, which CxC and Karpathy's JSON call `sentid`. It has no texts. All formats
of COCO's captions list the captions of an image by ascending ID, so that their order
within an image gives the IDs. Images may be in any order.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import logging
import pathlib
import re
import zipfile
from typing import NamedTuple

import numpy as np

from vse_jax.array_files import DAMAGED
from vse_jax.data.split_index import SplitIndex
from vse_jax.errors import InputError, one_line, unreadable
from vse_jax.evaluation.embedder import Embeddings

logger = logging.getLogger(__name__)

INSTALL = "pip install eccv-caption==0.1.0"
# SHA-256 of the letters and digits of the captions, which tokenizing does not change.
_TEXT_DIGEST = "ef2c967434bc87b11033a879cd0b81ea"
_COCO_ID = re.compile(r"(?:^|[_/])0*(\d{1,12})(?:\.[A-Za-z]+)?$")


@dataclasses.dataclass(frozen=True)
class CocoTest:
    """The numbers of the images and captions.

    Attributes:
      image_id: int64 `[images]`, COCO's image IDs.
      caption_id: int64 `[captions]`, COCO's annotation IDs, ascending within an image.
      image: int64 `[captions]`, row of each caption's image in `image_id`.
    """

    image_id: np.ndarray
    caption_id: np.ndarray
    image: np.ndarray

    @functools.cached_property
    def image_row(self) -> dict[int, int]:
        """Row of each image by its ID."""
        return {number: row for row, number in enumerate(self.image_id.tolist())}

    @functools.cached_property
    def caption_row(self) -> dict[int, int]:
        """Row of each caption by its ID."""
        return {number: row for row, number in enumerate(self.caption_id.tolist())}


class Rows(NamedTuple):
    """Where a split has the images and captions of `CocoTest`, in the order of that.

    Attributes:
      images: int64 `[images]`, records of the split.
      captions: int64 `[captions]`, captions of the split.
    """

    images: np.ndarray
    captions: np.ndarray

    def of(self, embeddings: Embeddings) -> Embeddings:
        """Returns embeddings of the split in the order of `CocoTest`.

        Args:
          embeddings: `[..., items, embed]`.
        """
        images, captions = embeddings
        return Embeddings(images[..., self.images, :], captions[..., self.captions, :])


def data_file(name: str) -> pathlib.Path:
    """Returns the path of a file of the package `eccv-caption`.

    Raises:
      InputError: if the package is not installed.
    """
    package = importlib.util.find_spec("eccv_caption")
    if package is None:
        raise InputError(
            "config.evaluation.suite='cxc' or 'eccv' needs the package eccv-caption, "
            f"which is not installed; {INSTALL}"
        )
    return pathlib.Path(package.submodule_search_locations[0]) / "data" / name


def read_relation(name: str) -> dict[int, list[int]]:
    """Returns a relation of IDs from a JSON file of the package.

    Raises:
      InputError: if the package is not installed or the file is damaged.
    """
    path = data_file(name)
    try:
        content = json.loads(path.read_bytes())
        return {int(key): [int(v) for v in values] for key, values in content.items()}
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def read() -> CocoTest:
    """Returns the numbers of the package.

    Raises:
      InputError: if the package is not installed or its files are damaged.
    """
    path = data_file("coco_test_ids.npy")
    image_of = read_relation("original_caption_to_image.json")
    try:
        caption_id = np.load(path).astype(np.int64)
        image_ids = [image_of[number][0] for number in caption_id.tolist()]
    except OSError as error:
        raise unreadable(path, error) from None
    except (*DAMAGED, LookupError, AttributeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None
    rows = {number: row for row, number in enumerate(dict.fromkeys(image_ids))}
    image = np.array([rows[number] for number in image_ids], np.int64)
    return CocoTest(np.array(list(rows), np.int64), caption_id, image)


def _damaged(path, error):
    return InputError(
        f"{path}: is damaged ({one_line(error)}); {INSTALL} --force-reinstall"
    )


def locate(coco: CocoTest, index: SplitIndex, split: str, suite: str) -> Rows:
    """Finds the images and captions in a split.

    If an image has more captions than are judged, its first ones are taken, as in
    published results.

    Args:
      coco: numbers of the images and captions.
      index: index of the split.
      split: name of the split, for messages.
      suite: name of the suite, for messages.

    Raises:
      InputError: if the split is not COCO's test split.
    """
    number_of = {_coco_id(name): number for number, name in enumerate(index.image_ids)}
    _check_images(coco, index, number_of, f"the split {split!r}", suite)
    record_of = np.argsort(index.image_id)
    images = record_of[[number_of[image] for image in coco.image_id.tolist()]]
    record = images[coco.image]
    position = np.arange(len(record)) - np.searchsorted(coco.image, coco.image)
    short = np.flatnonzero(position >= index.caption_counts[record])
    if len(short):
        record, needed = record[short[0]], position[short[0]] + 1
        raise InputError(
            f"config.evaluation.suite is {suite!r}, but the image "
            f"{index.image_id_of(record)!r} of the split {split!r} has "
            f"{index.caption_counts[record]} captions; expected at least {needed}, as "
            "in Karpathy's test split"
        )
    rows = Rows(images, index.caption_offset[record] + position)
    _log_differences(index, rows, split, suite)
    return rows


def _coco_id(image_id: str) -> int | str:
    """Returns the number in an image_id, such as `COCO_val2014_000000391895.jpg`."""
    match = _COCO_ID.search(image_id)
    return int(match[1]) if match else image_id


def _check_images(coco, index, number_of, split, suite):
    known = set(coco.image_id.tolist())
    unknown = next((name for image, name in _named(index) if image not in known), None)
    if unknown is not None:
        reason = f"{split} has the image {unknown!r}, which is none of them"
    elif missing := sorted(known - number_of.keys()):
        reason = f"{split} lacks {len(missing):,} of them, such as {missing[0]}"
    elif index.image_count != len(known):
        reason = f"{split} has some of them repeatedly"
    else:
        return
    raise InputError(
        f"config.evaluation.suite is {suite!r}, which judges the {len(known):,} test "
        f"images of COCO, but {reason}; choose COCO's test split by --split, with "
        "COCO's IDs or file names as image IDs, or --suite=recall"
    )


def _named(index):
    return ((_coco_id(name), name) for name in index.image_ids)


def _log_differences(index, rows, split, suite):
    dropped = len(index.captions) - len(rows.captions)
    if dropped:
        logger.info(
            "%s: %d captions of the split %r are left out, as they are not judged",
            suite,
            dropped,
            split,
        )
    text = "\n".join(
        re.sub("[^a-z0-9]", "", index.captions[row].lower()) for row in rows.captions
    )
    if hashlib.sha256(text.encode()).hexdigest()[:32] != _TEXT_DIGEST:
        logger.warning(
            "%s: captions of the split %r differ from COCO's; their numbers are those "
            "of COCO's captions of the same image in the same order",
            suite,
            split,
        )
