"""The dataset `karpathy_images`: photos with Karpathy's captions and splits.

Karpathy's JSON (Karpathy and Fei-Fei, CVPR 2015) exists for Flickr8k, Flickr30K and
COCO: `{"images": [{"filename", "split", "sentences": [{"raw", ...}, ...], ...}, ...]}`.
COCO's also has `filepath`, the photo's folder. The photos are in the JSON's folder or
in its subfolder `images/`. Splits are kept as they are. To train on COCO's `train` and
`restval`, as VSE++ does, set `config.data.train_split` to `train+restval`.
"""

import json
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.data.datasets import captioned_photos, coco_annotations, photo_source
from vse_jax.data.datasets.photo_places import ListedPhoto, path_below_root
from vse_jax.data.datasets.photo_source import Annotations
from vse_jax.errors import InputError, unreadable
from vse_jax.excerpts import excerpt, names

SPLITS = ("train", "restval", "val", "test")
_EXPECTED = "expected Karpathy's JSON, such as dataset_flickr8k.json"


class KarpathyImages(captioned_photos.CaptionedPhotos):
    """Examples of one photo each: `image_id` (its filename), `captions` and `image`.

    The image_id is the filename and not `imgid`, because a filename is meaningful in
    results and does not change in a subset of the JSON.
    """

    VERSION = tfds.core.Version("1.1.0")


class KarpathyImagesSource(photo_source.CaptionedPhotosSource):
    """A folder (`config.data.root`) with photos and Karpathy's JSON."""

    builder_class = KarpathyImages
    holds = "Karpathy's dataset_*.json, and the photos in images/ or beside it"

    def find_annotations(self, root: epath.Path) -> Annotations:
        """Returns the only `dataset_*.json` in the folder."""
        found = sorted(root.glob("dataset_*.json"))
        if len(found) != 1:
            shown = names([path.name for path in found]) or "none"
            raise InputError(
                f"{root}: expected one dataset_*.json of Karpathy, found {shown}"
                f"{_hint(root)}; set config.data.annotations to the JSON file"
            )
        return tuple(found)

    def read_annotations(
        self, paths: Annotations, root: epath.Path
    ) -> dict[str, list[ListedPhoto]]:
        """Returns the photos of each split, in the order of the JSON."""
        del root  # the JSON has no absolute paths
        return read_json(paths[0])


def _hint(root: epath.Path) -> str:
    of_coco = next(iter(root.glob(coco_annotations.PATTERN)), None)
    if of_coco is None:
        return ""
    return f" ({of_coco.name} is read with config.data.builder=image_folder)"


def read_json(path: epath.Path) -> dict[str, list[ListedPhoto]]:
    """Returns the photos of each split of Karpathy's JSON, in the order of the file.

    Raises:
      InputError: if the file is not Karpathy's JSON, or lists a photo twice.
    """
    splits: dict[str, list[ListedPhoto]] = {name: [] for name in SPLITS}
    numbers: dict[str, int] = {}
    for number, record in enumerate(_records(path)):
        where = f"{path}: images[{number}]"
        photo = _photo(where, record)
        first = numbers.setdefault(photo.image_id, number)
        if first != number:
            raise InputError(
                f"{where} repeats the filename {excerpt(photo.image_id)} of "
                f"images[{first}]; expected every photo once"
            )
        splits[_split(where, record)].append(photo)
    return {name: listed for name, listed in splits.items() if listed}


def _records(path: epath.Path) -> list:
    try:
        content = files.read_bytes(path)
        # COCO's tokens are unused and would take most of the memory.
        parsed = json.loads(content, object_hook=_without_tokens)
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 (byte {error.start}); {_EXPECTED}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); {_EXPECTED}") from None
    if isinstance(parsed, dict) and "annotations" in parsed:
        raise InputError(
            f"{path}: contains COCO's own annotations; read it with "
            f"config.data.builder=image_folder, or {_EXPECTED}"
        )
    records = parsed.get("images") if isinstance(parsed, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(f"{path}: has no list 'images', or an empty one; {_EXPECTED}")
    return records


def _without_tokens(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("tokens", None)
    return entry


def _photo(where: str, record: Any) -> ListedPhoto:
    if not isinstance(record, dict):
        raise InputError(f"{where} is {excerpt(record)}; {_EXPECTED}")
    name = _string(where, record, "filename")
    places = [name]
    if "filepath" in record:  # COCO only
        places.insert(0, f"{_string(where, record, 'filepath')}/{name}")
    paths = [path_below_root(place) for place in places]
    if None in paths:
        raise InputError(
            f"{where} has the filename {excerpt(places[0])}, which is outside of the "
            f"folder; {_EXPECTED}"
        )
    return ListedPhoto(
        image_id=name,
        captions=_captions(where, record),
        places=tuple(folder + path for folder in ("images/", "") for path in paths),
    )


def _split(where: str, record: dict[str, Any]) -> str:
    split = _string(where, record, "split")
    photo_source.check_split(where, split, SPLITS)
    return split


def _captions(where: str, record: dict[str, Any]) -> tuple[str, ...]:
    sentences = record.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise InputError(
            f"{where} ({excerpt(record['filename'])}) has no sentences; expected at "
            "least one, each with its 'raw' text"
        )
    captions = []
    for number, sentence in enumerate(sentences):
        place = f"{where}['sentences'][{number}]"
        if not isinstance(sentence, dict):
            raise InputError(f"{place} is {excerpt(sentence)}; {_EXPECTED}")
        captions.append(_string(place, sentence, "raw").strip())
    return tuple(captions)


def _string(where: str, record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise InputError(f"{where} has no {key!r}; {_EXPECTED}")
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} has the {key} {excerpt(value)}; expected text")
    photo_source.check_text(where, key, value)
    return value
