"""Captions and image ids of a split: text files with one of them on each line."""

import dataclasses
import itertools
import logging

from etils import epath

from vse_jax import text_files
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SplitCaptions:
    """The images of a split in their order, and the captions of each.

    Attributes:
      image_ids: of each image.
      id_lines: the line of the file of ids that names each image first, from 1; empty
        if there is no such file.
      captions: those of image 0, those of image 1, ...
      offsets: image `i` has the captions from `offsets[i]` up to `offsets[i + 1]`.
    """

    image_ids: list[str]
    id_lines: list[int]
    captions: list[str]
    offsets: list[int]

    def of(self, image: int) -> list[str]:
        """Returns the captions of an image by its number."""
        return self.captions[self.offsets[image] : self.offsets[image + 1]]


def captions_of_rows(
    captions_path: epath.Path,
    captions: list[str],
    ids_path: epath.Path,
    image_count: int,
    features_name: str,
    default_ids: list[str] | None = None,
) -> SplitCaptions:
    """Assigns captions to images that are known by their order.

    Args:
      captions_path: of the captions, for messages.
      captions: equally many of each image.
      ids_path: one id per image or per caption; may be absent.
      image_count: images of the features.
      features_name: name of the features' file, for messages.
      default_ids: of each image, if `ids_path` is absent; None numbers the images.

    Raises:
      InputError: if the numbers of captions or ids do not fit.
    """
    if not captions or len(captions) % image_count:
        raise InputError(
            f"{captions_path}: has {len(captions)} captions for {image_count} images "
            f"in {features_name}; expected the same number for each image, in the "
            "order of the images"
        )
    per_image = len(captions) // image_count
    offsets = list(range(0, len(captions) + 1, per_image))
    if not ids_path.exists():
        ids = default_ids or [str(image) for image in range(image_count)]
        return SplitCaptions(ids, [], captions, offsets)
    ids, step = read_lines(ids_path, "id"), 1
    if len(ids) == len(captions) != image_count:
        ids, step = _one_id_an_image(ids_path, ids, per_image), per_image
    if len(ids) != image_count:
        raise InputError(
            f"{ids_path}: has {len(ids)} ids; expected {image_count}, one for each "
            f"image (or {len(captions)}, one for each caption)"
        )
    _warn_of_duplicates(ids_path, ids)
    lines = list(range(1, image_count * step + 1, step))
    return SplitCaptions(ids, lines, captions, offsets)


def captions_by_id(
    captions_path: epath.Path,
    captions: list[str],
    ids_path: epath.Path,
    features_name: str,
) -> SplitCaptions:
    """Assigns captions to images that are known by their ids.

    Args:
      captions_path: of the captions, for messages.
      captions: of the split.
      ids_path: one id per caption, where the captions of an image are consecutive; or
        one per image, where all images have equally many captions.
      features_name: name of the features' file, for messages.

    Raises:
      InputError: if there are no ids, or their number does not fit.
    """
    if not ids_path.exists():
        raise InputError(
            f"{ids_path}: is missing; {features_name} holds images by their ids: add "
            f"the file, with the image id of each caption in {captions_path.name} on a "
            "line of its own"
        )
    ids = read_lines(ids_path, "id")
    if not captions or not ids or len(captions) % len(ids):
        raise InputError(
            f"{ids_path}: has {len(ids)} ids for the {len(captions)} captions in "
            f"{captions_path.name}; expected one id for each caption, or one for each "
            "image if all have equally many captions"
        )
    if len(ids) == len(captions):
        starts = [i for i, some in enumerate(ids) if i == 0 or some != ids[i - 1]]
        offsets = [*starts, len(ids)]
        ids, lines = [ids[i] for i in starts], [i + 1 for i in starts]
    else:
        offsets = list(range(0, len(captions) + 1, len(captions) // len(ids)))
        lines = list(range(1, len(ids) + 1))
    _warn_of_duplicates(ids_path, ids)
    return SplitCaptions(ids, lines, captions, offsets)


def check_ids_are_known(
    split: SplitCaptions, ids_path: epath.Path, known, features_name: str
) -> None:
    """Raises InputError if the features of an image are missing.

    Args:
      split: its images.
      ids_path: file of the ids.
      known: ids of which there are features; at least one.
      features_name: names of the features' files.
    """
    missing = [i for i, name in enumerate(split.image_ids) if name not in known]
    if missing:
        raise missing_id(split, ids_path, missing, features_name, known)


def missing_id(
    split: SplitCaptions, ids_path: epath.Path, missing: list[int], features_name, known
) -> InputError:
    """Returns the error for images without features.

    Args:
      split: its images.
      ids_path: file of the ids.
      missing: numbers of the images.
      features_name: names of the features' files.
      known: names that have features; the message shows some.
    """
    examples = ", ".join(excerpt(name) for name in itertools.islice(known, 2))
    first = missing[0]
    return InputError(
        f"{ids_path}: line {split.id_lines[first]}: image id "
        f"{excerpt(split.image_ids[first])} is not in {features_name}, which holds ids "
        f"such as {examples}; {len(missing)} of {len(split.image_ids)} images are "
        "missing: write the ids as there, add the features, or remove the images with "
        "their captions"
    )


def _one_id_an_image(path: epath.Path, ids: list[str], count: int) -> list[str]:
    for line, image_id in enumerate(ids):
        if image_id != ids[line - line % count]:
            raise InputError(
                f"{path}: line {line + 1} has the id {excerpt(image_id)}, but that "
                f"image's first caption has {excerpt(ids[line - line % count])}; "
                "expected the image's id on each of its lines (remove the file to "
                "number the images)"
            )
    return ids[::count]


def _warn_of_duplicates(path: epath.Path, ids: list[str]) -> None:
    duplicates = len(ids) - len(set(ids))
    if duplicates:
        logger.warning("%s: %d images repeat an earlier image's id", path, duplicates)


def read_lines(path: epath.Path, kind: str) -> list[str]:
    """Reads stripped lines of a text, in the encodings of `text_files.read_text`.

    Characters such as U+2028, at which `str.splitlines` breaks, end no line: they occur
    inside captions.

    Args:
      path: of the file.
      kind: what is on each line, for messages.

    Raises:
      InputError: if the file cannot be read, has another encoding or a zero byte, or if
        a line is empty.
    """
    lines = text_files.read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()  # behind the end of the last line
    lines = [line.strip() for line in lines]
    if "" in lines:
        raise InputError(
            f"{path}: line {lines.index('') + 1} is empty; expected one {kind} on "
            "every line"
        )
    return lines
