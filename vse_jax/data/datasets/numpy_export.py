"""Writes features in the numpy layout that the PyTorch repositories read."""

import contextlib
import logging
import math
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.data import records
from vse_jax.data.datasets.feature_array import COUNTS_ENDING, FEATURES_ENDING
from vse_jax.data.datasets.layout_files import CAPTIONS_ENDING, IDS_ENDING
from vse_jax.data.split_index import SplitIndex, split_index
from vse_jax.errors import InputError

logger = logging.getLogger(__name__)

_CAPTIONS = 5  # of an image, in the published files
# Names of the layout, and the splits that make them, those of Karpathy included.
_SOURCES = {
    "train": ("train", "restval"),
    "dev": ("dev", "val"),
    "test": ("test",),
    "testall": ("testall",),
}


def count_captions_taken(indexes: Mapping[str, SplitIndex]) -> dict[str, int]:
    """Returns how many captions of each image the layout takes.

    All images have equally many captions there: all of their captions, or the first
    five if the numbers differ, as in the published files.

    Args:
      indexes: of the splits, by name.

    Returns:
      Numbers by the layout's names of the splits.

    Raises:
      InputError: naming an image that has fewer than others.
    """
    if "dev" in indexes and "val" in indexes:
        raise InputError(
            "config.extract.numpy_layout: the dataset has the splits 'dev' and 'val', "
            "but that layout has only one of them; leave the option empty, or join them"
        )
    return {
        target: _count_captions_taken({name: indexes[name] for name in names})
        for target, names in _present(indexes).items()
    }


def _count_captions_taken(indexes):
    counts = np.concatenate([index.caption_counts for index in indexes.values()])
    fewest = counts.min()
    taken = fewest if fewest == counts.max() else _CAPTIONS
    for split, index in indexes.items():
        differing = np.flatnonzero(index.caption_counts < max(taken, 1))
        if differing.size:
            image = differing[0]
            raise InputError(
                f"config.extract.numpy_layout: image {index.image_id_of(image)!r} of "
                f"{split!r} has {index.caption_counts[image]} captions and others have "
                f"up to {counts.max()}; that layout needs equally many, or "
                f"{_CAPTIONS} or more: leave the option empty, or even out the "
                "captions of the source"
            )
        _check_captions(split, index)
    left_out = counts.sum() - taken * len(counts)
    if left_out:
        logger.info(
            "numpy layout: images of %s keep the first %d captions; %s are left out",
            " and ".join(indexes),
            taken,
            f"{left_out:,}",
        )
    return int(taken)


def _check_captions(split, index):
    for caption, text in enumerate(index.captions):
        if not _in_one_line(text):
            image = np.searchsorted(index.caption_offset, caption, side="right") - 1
            raise InputError(
                f"config.extract.numpy_layout: a caption of image "
                f"{index.image_id_of(image)!r} of {split!r} is empty, which that "
                "layout does not allow; fix the source, or leave the option empty"
            )


def export(
    builder: tfds.core.DatasetBuilder,
    folder: epath.Path,
    captions_taken: Mapping[str, int],
) -> list[epath.Path]:
    """Writes `{split}_ims.npy`, `{split}_caps.txt` and `{split}_ids.txt`.

    If images have different numbers of regions, the array is padded with zeros, and
    `{split}_counts.npy` has the numbers. It is also written if an image ends in a
    region of zeros, which would be read as padding.

    Karpathy's `restval` follows `train` in one array, `val` becomes `dev`, and COCO's
    `test` becomes `testall`. The images keep their order. Each file is whole, or is
    absent; the features are written last, so that a split with features is complete.

    Args:
      builder: of a dataset with `regions` or `feature`.
      folder: for the files.
      captions_taken: what `count_captions_taken` returned.

    Returns:
      The arrays of features.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, names in _present(builder.info.splits).items():
        paths.append(folder / f"{split}{FEATURES_ENDING}")
        counts_path = folder / f"{split}{COUNTS_ENDING}"
        # Those of an earlier export would not fit the other new files.
        for path in (paths[-1], counts_path):
            path.unlink(missing_ok=True)
        with (
            _whole(paths[-1], "wb") as features,
            _whole(folder / f"{split}{CAPTIONS_ENDING}", "w") as captions,
            _whole(folder / f"{split}{IDS_ENDING}", "w") as image_ids,
        ):
            texts = _Texts(captions, image_ids, captions_taken[split])
            counts = _write_split(builder, names, features, texts)
            if counts is not None:
                with _whole(counts_path, "wb") as file:
                    np.lib.format.write_array(file, counts, allow_pickle=False)
    return paths


def _present(splits: Mapping) -> dict[str, tuple[str, ...]]:
    """The names of the layout with those of their splits that are there."""
    present = {
        target: tuple(name for name in names if name in splits)
        for target, names in _SOURCES.items()
    }
    if "restval" in splits and not present["testall"]:
        # So the layout calls COCO's 5,000; its `test` are fewer.
        present["testall"] = present.pop("test")
    return {target: names for target, names in present.items() if names}


class _Texts(NamedTuple):
    """The files of text of a split."""

    captions: TextIO
    image_ids: TextIO
    caption_count: int  # of each image

    def write(self, example: Mapping) -> None:
        """Writes the id and the captions of an image."""
        self.image_ids.write(_in_one_line(example["image_id"].decode()) + "\n")
        for caption in example["captions"][: self.caption_count]:
            self.captions.write(_in_one_line(caption.decode()) + "\n")


def _write_split(
    builder: tfds.core.DatasetBuilder,
    names: tuple[str, ...],
    features: BinaryIO,
    texts: _Texts,
) -> np.ndarray | None:
    """Writes the images of some splits.

    Returns:
      int32 `[images]`, the number of regions of each; None if no reader needs them.
    """
    content = records.content_of(builder)
    sources = [builder.as_data_source(name) for name in names]
    shape = (content.dim,)
    if content.key == "regions":
        shape = (_most_regions(builder, names), content.dim)
    _write_header(
        features, (sum(map(len, sources)), *shape), content.dtype.as_numpy_dtype
    )
    counts, ends_in_zeros = [], False
    for example in _examples(sources):
        feature = np.ascontiguousarray(example[content.key])
        features.write(feature.data)
        features.write(bytes(math.prod(shape) * feature.itemsize - feature.nbytes))
        texts.write(example)
        counts.append(len(feature))
        ends_in_zeros |= not feature[-1].any()
    if content.key == "regions" and (ends_in_zeros or min(counts) < shape[0]):
        return np.array(counts, np.int32)
    return None


def _most_regions(builder: tfds.core.DatasetBuilder, names: tuple[str, ...]) -> int:
    return max(int(split_index(builder, name).region_count.max()) for name in names)


def _examples(sources) -> Iterator[dict]:
    for source in sources:
        yield from (source[number] for number in range(len(source)))


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: type) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, header)


def _in_one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text).strip()


@contextlib.contextmanager
def _whole(path: epath.Path, mode: str):
    """Opens a file that is there only once all of it is written."""
    encoding = None if "b" in mode else "utf-8"
    with (
        files.unfinished(path) as unfinished,
        unfinished.open(mode, encoding=encoding) as file,
    ):
        yield file
