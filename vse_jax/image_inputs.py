"""What a trained model takes as images: photos, or features of images.

A model with a backbone takes photos. A model of features takes features. It takes
photos too, if the features were extracted by this program: then a photo goes through
the same crop, backbone, pooling and PCA as the photos of the training.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util
from PIL import Image

from configs import common
from vse_jax import run_config
from vse_jax.checkpoint import Restored
from vse_jax.data import photo_geometry, photo_inputs
from vse_jax.data.datasets.photos import PhotoError
from vse_jax.data.photo_inputs import Photo
from vse_jax.errors import InputError
from vse_jax.extraction import pca
from vse_jax.extraction.backbone_file import BACKBONE_FILE
from vse_jax.extraction.extractor import make_extract_step
from vse_jax.models.image_encoders import ENCODERS
from vse_jax.models.vse import content_dim
from vse_jax.threads import in_order

Images = Photo | np.ndarray | Iterable[Photo | np.ndarray]
_NO_BACKBONE = (
    "this model was trained on {content} of {dim} dimensions, and the backbone that "
    "computed them is not known; pass features instead of photos, or extract features "
    "by --mode=extract and train on them"
)
_NO_FILE = (
    "this model was trained on {content} of photos, but its folder lacks "
    f"{BACKBONE_FILE}, which computed them; copy this file from the folder of the run "
    "or of the features, or pass features instead of photos"
)
_NO_SIZE = (
    "this model was trained on {content} of photos that had one size, which is not "
    "known, since config.data.image_size was 0 in the extraction; pass features, not "
    "photos, or extract with config.data.image_size set and train on that"
)
_REGIONS_STEP = 8  # padded numbers of regions are multiples of it


class ImageInput:
    """Reads images and puts them into batches for one model.

    Attributes:
      content: content that the image encoder takes: `image`, `regions` or `feature`.
      dim: dimensions of a region or a feature; None for `image`.
      takes_photos: whether photos can be read.
      parameters: variables and PCA of the extraction's backbone; None without it.
      maximum_pixels: largest width times height of a photo in a file.
    """

    def __init__(
        self,
        restored: Restored,
        backbone: dict | None,
        maximum_pixels: int | None = None,
    ):
        """Initializes the input of a model.

        Args:
          restored: a checkpoint.
          backbone: variables of the backbone that extracted the training's features.
          maximum_pixels: largest width times height of a photo in a file; None for
            `config.data.maximum_pixels` of the run.

        Raises:
          InputError: if the maximum is less than 1, or if the checkpoint's PCA is of
            another version of this program.
        """
        self.maximum_pixels = _maximum_pixels(restored.run, maximum_pixels)
        model = restored.run["config"]["model"]
        extraction = restored.run["extraction"]
        if model["backbone"]["name"]:
            self.content, self.dim = "image", None
            self._read_photo = _reader_of_run(restored.run, self.maximum_pixels)
        else:
            self.content = ENCODERS[model["image_encoder"]].content
            self.dim = content_dim(restored.variables)
            self._read_photo = None
        self.parameters = self._extract = None
        self._why_no_photos = _NO_FILE if extraction else _NO_BACKBONE
        if backbone and self.content != "image":
            if photo_size(extraction):
                self._take_photos(extraction, backbone, restored.pca)
            else:
                self._why_no_photos = _NO_SIZE

    def _take_photos(self, extraction, backbone, arrays):
        config = extraction_config(extraction)
        geometry = photo_geometry.geometry_of(config.data)
        self._read_photo = photo_inputs.pixels_reader(
            geometry, maximum_pixels=self.maximum_pixels
        )
        self._extract = make_extract_step(config)
        self.parameters = backbone, pca.restored(arrays)

    @property
    def takes_photos(self) -> bool:
        """Whether photos can be read."""
        return self._read_photo is not None

    def check_takes_photos(self) -> None:
        """Raises InputError if the model cannot embed photos."""
        if not self.takes_photos:
            why = self._why_no_photos
            raise InputError(why.format(content=self.content, dim=self.dim))

    def read(self, image: Photo | np.ndarray) -> np.ndarray:
        """Returns the content of one image; threads may call it.

        Returns:
          uint8 `[height, width, 3]` (or ten crops of it), or the features.

        Raises:
          PhotoError: if a photo cannot be read or decoded; gives the reason.
          InputError: if the model does not take such images.
        """
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            return self._checked_features(image)
        if not isinstance(image, Photo):
            raise PhotoError(
                f"it is {type(image).__name__}; expected a path, bytes, a PIL image or "
                "an array"
            )
        self.check_takes_photos()
        return self._read_photo(image)

    def read_all(self, images: Images) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the position and the content of each image.

        Raises:
          InputError: if an image cannot be read; names its position.
        """

        def read(image):
            try:
                return self.read(image)
            except (PhotoError, InputError) as error:
                return error, image

        for number, content in enumerate(in_order(read, self._as_list(images))):
            if isinstance(content, tuple):
                error, image = content
                raise InputError(f"image {number}{_name(image)}: {error}") from error
            yield number, content

    def _as_list(self, images):
        if isinstance(images, str | os.PathLike | bytes | Image.Image):
            return [images]
        if isinstance(images, np.ndarray):
            if images.dtype.kind in "OU":  # paths, such as a column of a table
                return images.ravel().tolist()
            ndim = 3 if images.dtype == np.uint8 else len(self._shape())
            return [images] if images.ndim == ndim else images
        return images

    def _shape(self):
        """Returns the axes of an image's features, for messages."""
        return ["regions", self.dim] if self.content == "regions" else [self.dim]

    def _checked_features(self, array):
        if self.content == "image":
            raise InputError(
                "this model takes photos; expected a path, bytes, a PIL image, or an "
                f"array uint8 [height, width, 3], but found {array.dtype}"
            )
        shape = self._shape()
        if array.ndim != len(shape) or array.shape[-1] != self.dim or not array.size:
            axes = ", ".join(map(str, shape))
            raise InputError(
                f"its features have the shape {list(array.shape)}; expected [{axes}]"
            )
        if not np.isfinite(array).all():
            raise InputError("its features are not finite; extract them again")
        return array if array.dtype == np.float16 else array.astype(np.float32)

    def stacks(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Returns whether the contents of two images fit into one batch."""
        return one.dtype == other.dtype and one.ndim == other.ndim

    def batch(self, contents: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns a batch of contents that `read` returned."""
        if contents[0].dtype == np.uint8:
            return {"image": np.stack(contents)}
        if self.content == "feature":
            return {"feature": np.stack(contents).astype(np.float32)}
        count = np.array([len(regions) for regions in contents], np.int32)
        longest = count.max()
        if (count != longest).any():
            longest = -(-longest // _REGIONS_STEP) * _REGIONS_STEP
        shape = len(contents), longest, self.dim
        regions = np.zeros(shape, contents[0].dtype)
        for row, array in zip(regions, contents, strict=True):
            row[: len(array)] = array
        return {"regions": regions, "region_count": count}

    def to_model_input(self, parameters: Any, batch: dict) -> dict:
        """Computes the batch that the image encoder takes; per-device code.

        Args:
          parameters: `parameters` of this object, on the device.
          batch: part of what `batch` returned.
        """
        if "image" not in batch or self.content == "image":
            return batch
        features = self._extract(parameters, batch["image"])
        if self.content == "feature":
            return {"feature": features.astype(np.float32)}
        batch_size, regions = features.shape[:2]
        region_count = jax.numpy.full(batch_size, regions, np.int32)
        return {"regions": features, "region_count": region_count}


def _maximum_pixels(run, given):
    saved = run_config.from_json(run["config"]).data.maximum_pixels
    chosen = saved if given is None else given
    if chosen < 1:
        raise InputError(f"config.data.maximum_pixels is {chosen}; expected at least 1")
    return chosen


def _reader_of_run(run, maximum_pixels) -> Callable:
    preprocessing = run["preprocessing"]
    data = run_config.from_json(run["config"]).data
    geometry = photo_geometry.geometry_of(data)._replace(
        size=preprocessing["image_size"], shorter=preprocessing["resize"]
    )
    return photo_inputs.pixels_reader(geometry, data.crops, maximum_pixels)


def photo_size(extraction: dict) -> int:
    """Returns height and width in pixels of the photos that a backbone took.

    It is 0 if it is not known: the stored photos had one size, and were not resized.

    Args:
      extraction: description of the extraction.
    """
    return extraction["config.data.image_size"]


def extraction_config(extraction: dict) -> ml_collections.ConfigDict:
    """Returns the options in the description of an extraction; others have defaults."""
    options = {
        name.removeprefix("config."): value
        for name, value in extraction.items()
        if name.startswith("config.")
    }
    config = common.get_config()
    config.update(run_config.from_json(traverse_util.unflatten_dict(options, sep=".")))
    return config


def _name(image) -> str:
    return f" ({os.fspath(image)})" if isinstance(image, str | os.PathLike) else ""
