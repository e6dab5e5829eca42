"""Indexes the image ids, captions and words of a split, and caches the index."""

import array
import dataclasses
import functools
import io
import itertools
import logging

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.array_files import read_npz
from vse_jax.data import records
from vse_jax.data.string_arrays import pack, unpack
from vse_jax.data.text import tokenizers
from vse_jax.errors import InputError
from vse_jax.progress import Progress

logger = logging.getLogger(__name__)

# Of the cache file. Increase it when its content or a tokenizer's rules change.
_VERSION = 2
_READ_AT_ONCE = 64  # records; few, so that features of any size take little memory


@dataclasses.dataclass(frozen=True)
class SplitIndex:
    """Image ids, captions and words of a split.

    Attributes:
      image_ids: distinct image_id strings, in order of first occurrence.
      image_id: int32 `[images]`, index in `image_ids` of each record. Records of one
        picture share it.
      region_count: int32 `[images]`; 0 if the content is not regions.
      captions: all captions, in the order of the records.
      caption_image_id: int32 `[captions]`, the `image_id` of each caption's image.
      caption_offset: int64 `[images + 1]`; record i has the captions
        `captions[caption_offset[i]:caption_offset[i + 1]]`.
      words: distinct words of the captions, in order of first occurrence.
      word_ids: int32 `[words of all captions]`, indices in `words`.
      word_offset: int64 `[captions + 1]`; caption j has the words
        `word_ids[word_offset[j]:word_offset[j + 1]]`.
    """

    image_ids: list[str]
    image_id: np.ndarray
    region_count: np.ndarray
    captions: list[str]
    caption_image_id: np.ndarray
    caption_offset: np.ndarray
    words: list[str]
    word_ids: np.ndarray
    word_offset: np.ndarray

    @property
    def image_count(self) -> int:
        """Number of records."""
        return len(self.image_id)

    @property
    def caption_counts(self) -> np.ndarray:
        """Number of captions of each record, int64 `[images]`."""
        return np.diff(self.caption_offset)

    def image_id_of(self, record: int) -> str:
        """Returns the image_id string of a record."""
        return self.image_ids[self.image_id[record]]


def split_index(
    builder: tfds.core.DatasetBuilder, split: str, tokenizer: str = tokenizers.DEFAULT
) -> SplitIndex:
    """Returns the index of a split, or of a sum of splits, of a prepared dataset.

    The first call reads the split without decoding images, and caches the index beside
    the prepared data. Later calls read the cache, unless the data has changed or the
    cache was written by another version of the tokenizer or its libraries.

    Args:
      builder: a prepared dataset.
      split: name of the split, or a sum such as `train+restval`.
      tokenizer: name in `tokenizers.TOKENIZERS`, splits the captions into words.

    Raises:
      InputError: if the split does not exist, is empty or cannot be read.
    """
    records.check_split(builder, split)
    path = epath.Path(builder.data_dir) / f"index-{split}-{tokenizer}.npz"
    # File sizes and modification times show whether the cache matches the records.
    status = records.status_of_split(builder, split)
    made_by = f"{_VERSION}, {tokenizers.describe(tokenizer)}, {status}"
    load = _load if files.is_local(path) else _download
    index = load(path, made_by, builder.info.splits[split].num_examples)
    if index is None:
        index = _build(builder, split, tokenizer)
        _save(index, path, made_by)
        _download.cache_clear()
    return index


def _build(builder: tfds.core.DatasetBuilder, split: str, tokenizer: str) -> SplitIndex:
    image_ids, region_count, captions = _read(builder, split)
    distinct = dict.fromkeys(image_ids)
    dense = {image_id: number for number, image_id in enumerate(distinct)}
    image_id = np.array([dense[image_id] for image_id in image_ids], np.int32)
    caption_counts = np.array([len(some) for some in captions], np.int64)
    flat = list(itertools.chain.from_iterable(captions))
    words, word_ids, word_count = _tokenize_all(flat, split, tokenizer)
    return SplitIndex(
        image_ids=list(distinct),
        image_id=image_id,
        region_count=region_count,
        captions=flat,
        caption_image_id=np.repeat(image_id, caption_counts),
        caption_offset=_offsets(caption_counts),
        words=words,
        word_ids=word_ids,
        word_offset=_offsets(word_count),
    )


def _read(
    builder: tfds.core.DatasetBuilder, split: str
) -> tuple[list[str], np.ndarray, list[list[str]]]:
    """Returns the image_id, region_count and captions of each record."""
    reader = records.RecordReader(builder, split)
    content = records.content_of(builder)
    numbers = np.arange(len(reader))
    parts = np.split(numbers, numbers[_READ_AT_ONCE::_READ_AT_ONCE])
    dataset = records.dataset_of_records(reader, parts).map(
        lambda serialized: records.parse_captions(content, serialized)
    )
    image_ids, region_counts, captions = [], [], []
    try:
        with Progress(
            f"reading captions of {split}", len(reader), "images"
        ) as progress:
            for some_ids, some_captions, some_counts in dataset.prefetch(1):
                image_ids += some_ids.numpy().tolist()
                captions += some_captions.to_list()
                region_counts.append(some_counts.numpy())
                progress.add(len(some_counts))
        image_ids = [image_id.decode() for image_id in image_ids]
        captions = [[caption.decode() for caption in some] for some in captions]
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise records.unreadable(builder, split, error) from error
    return image_ids, np.concatenate(region_counts).astype(np.int32), captions


def _tokenize_all(
    captions: list[str], split: str, tokenizer: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns the distinct words, word indices, and the word count of each caption."""
    positions: dict[str, int] = {}
    flat, counts = array.array("i"), array.array("q")
    with Progress(f"tokenizing {split}", len(captions), "captions") as progress:
        for caption in captions:
            tokens = tokenizers.tokenize(caption, tokenizer)
            flat.extend(positions.setdefault(word, len(positions)) for word in tokens)
            counts.append(len(tokens))
            progress.add()
    return list(positions), np.array(flat, np.int32), np.array(counts, np.int64)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _save(index: SplitIndex, path: epath.Path, made_by: str) -> None:
    arrays = {"made_by": np.array(made_by)}
    for field in dataclasses.fields(index):
        value = getattr(index, field.name)
        if isinstance(value, list):
            arrays[f"{field.name}.text"], arrays[f"{field.name}.length"] = pack(value)
        else:
            arrays[field.name] = value
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        with files.unfinished(path, shared=True) as unfinished:
            unfinished.write_bytes(buffer.getbuffer())
    except OSError as error:
        logger.warning(
            "%s: cannot be written, so every start reads the captions again: %s",
            path,
            error,
        )


def _load(path: epath.Path, made_by: str, images: int) -> SplitIndex | None:
    """Returns the cached index; None if it is absent, outdated or damaged."""
    if not path.exists():
        return None
    try:
        arrays = read_npz(path.read_bytes())
        if str(arrays["made_by"]) != made_by or len(arrays["image_id"]) != images:
            return None
        return _index_of(arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: damaged, so it is built again: %s", path, error)
        return None


# A run opens the index of a split several times.
_download = functools.lru_cache(maxsize=4)(_load)


def _index_of(arrays: dict[str, np.ndarray]) -> SplitIndex:
    names = [field.name for field in dataclasses.fields(SplitIndex)]
    return SplitIndex(**{name: _field(arrays, name) for name in names})


def _field(arrays: dict[str, np.ndarray], name: str) -> np.ndarray | list[str]:
    if name in arrays:
        return arrays[name]
    return unpack(arrays[f"{name}.text"], arrays[f"{name}.length"])


def check_captions(
    builder: tfds.core.DatasetBuilder, split: str, index: SplitIndex
) -> None:
    """Raises InputError if a record has no caption to train on."""
    without = np.flatnonzero(index.caption_counts == 0)
    if len(without):
        name = index.image_id_of(without[0])
        raise InputError(
            f"{builder.data_dir}: record {without[0]} (image {name}) of split "
            f"{split!r} has no caption; expected at least one; fix the source and "
            "prepare the data again"
        )
