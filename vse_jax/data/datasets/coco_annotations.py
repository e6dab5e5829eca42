"""Reads COCO's own annotations, such as `captions_train2017.json`.

The format is `{"images": [{"id", "file_name", ...}, ...], "annotations": [{"image_id",
"caption", ...}, ...], ...}`. The file name determines the split and the usual folder of
the photos.
"""

import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from vse_jax.data.datasets import caption_columns
from vse_jax.data.datasets.caption_row import CaptionRow
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt

PATTERN = "captions_*.json"  # glob for these files
UNUSED = ("license", "coco_url", "flickr_url", "date_captured", "tokens", "tokids")
_EXPECTED = "expected COCO's annotations, such as captions_train2017.json"
_NAME = re.compile(r"captions_((train|restval|val|dev|test)\d*)\.json")


def split_of(path: epath.Path) -> str | None:
    """Returns the split in the name of a file; None if the name has none."""
    name = _NAME.fullmatch(path.name)
    return name and name[2]


def rows(path: epath.Path, content: Any) -> Iterator[CaptionRow]:
    """Yields a row for each photo, with all its captions, in the order of `images`.

    Args:
      path: path of the file, for messages and the split.
      content: parsed JSON of the file.

    Raises:
      InputError: if the content does not have COCO's format, or if an annotation
        belongs to no photo.
    """
    images, annotations = _lists(path, content)
    captions = _captions(path, annotations, _positions(path, images))
    name = _NAME.fullmatch(path.name)
    file = str(path)  # converting a path to text is slow
    for position, image in enumerate(images):
        where = f"{file}: images[{position}]"
        file_name = image.get("file_name")
        if not isinstance(file_name, str):
            raise InputError(
                f"{where} has the file_name {excerpt(file_name)}; {_EXPECTED}"
            )
        yield CaptionRow(
            where,
            file_name,
            captions[position],
            split=name and name[2],
            folder=name[1] if name else "",
        )


def _lists(path: epath.Path, content: Any) -> tuple[list, list]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: is {excerpt(content)}; {_EXPECTED}")
    images, annotations = content.get("images"), content.get("annotations")
    if isinstance(images, list) and images and _is_karpathys(images[0]):
        raise InputError(
            f"{path}: is Karpathy's JSON; read it with "
            "config.data.builder=karpathy_images"
        )
    for key, found in (("images", images), ("annotations", annotations)):
        if not isinstance(found, list) or not found:
            raise InputError(
                f"{path}: has no list {key!r}, or an empty one; {_EXPECTED}"
            )
        for position, entry in enumerate(found):
            if not isinstance(entry, dict):
                raise InputError(
                    f"{path}: {key}[{position}] is {excerpt(entry)}; {_EXPECTED}"
                )
    return images, annotations


def _is_karpathys(image: Any) -> bool:
    return isinstance(image, dict) and "sentences" in image


def _positions(path: epath.Path, images: list[dict]) -> dict[int | str, int]:
    """Returns the index of each photo by its id."""
    positions: dict[int | str, int] = {}
    file = str(path)  # converting a path to text is slow
    for position, image in enumerate(images):
        where = f"{file}: images[{position}]"
        number = _id(where, image, "id")
        first = positions.setdefault(number, position)
        if first != position:
            raise InputError(
                f"{where} repeats the id {excerpt(number)} of images[{first}]; "
                "expected every photo once"
            )
    return positions


def _captions(
    path: epath.Path, annotations: list[dict], positions: dict[int | str, int]
) -> list[list[str]]:
    """Returns the captions of each photo, in the order of `images`."""
    captions: list[list[str]] = [[] for _ in positions]
    file = str(path)
    for position, annotation in enumerate(annotations):
        where = f"{file}: annotations[{position}]"
        number = _id(where, annotation, "image_id")
        if number not in positions:
            raise InputError(
                f"{where} has the image_id {excerpt(number)}, which is not in "
                "'images'; download the file again"
            )
        if "caption" not in annotation:
            raise InputError(
                f"{where} has no 'caption'; {_EXPECTED} (instances_*.json and "
                "person_keypoints_*.json have no captions)"
            )
        found = caption_columns.captions_of(where, annotation["caption"])
        if not found:
            raise InputError(f"{where} has an empty caption; fill it or remove it")
        captions[positions[number]] += found
    return captions


def _id(where: str, entry: dict, key: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where} has the {key} {excerpt(value)}; {_EXPECTED}")
    return value
