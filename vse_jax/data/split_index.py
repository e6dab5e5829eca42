"""All of a split but its images: identities, captions, words; cached once read."""

import array
import dataclasses
import io
import itertools
import logging
import zipfile

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from etils import epath

from vse_jax.data import records
from vse_jax.data.string_arrays import pack, unpack
from vse_jax.data.text.tokenizers import tokenize
from vse_jax.errors import InputError

logger = logging.getLogger(__name__)

_VERSION = 1  # of the cached file; to be raised when it or the tokenizer changes
_READ_AT_ONCE = 64  # records, so that features of any size take little memory


@dataclasses.dataclass(frozen=True)
class SplitIndex:
    """What there is in a split, and which caption belongs to which image.

    Attributes:
        image_ids: the distinct image_id strings, in order of first appearance.
        image_id: int32 [images], position in `image_ids` for each record; two records
            of one picture share it.
        region_count: int32 [images]; 0 where the content is not regions.
        captions: all captions, those of the first record first.
        caption_image_id: int32 [captions], the `image_id` of each caption's image.
        caption_offset: int64 [images + 1]; record i has the captions from
            `caption_offset[i]` up to `caption_offset[i + 1]`.
        words: the distinct words of the captions, in order of first appearance.
        word_ids: int32 [words of all captions], positions in `words`.
        word_offset: int64 [captions + 1]; caption j has the words from `word_offset[j]`
            up to `word_offset[j + 1]`.
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
        """Captions of each record: int64 [images]."""
        return np.diff(self.caption_offset)

    def image_id_of(self, record: int) -> str:
        """Returns the image_id string of a record."""
        return self.image_ids[self.image_id[record]]


def split_index(builder: tfds.core.DatasetBuilder, split: str) -> SplitIndex:
    """Returns the index of a split of a prepared dataset, or of a sum of splits.

    The first call reads the split once, without decoding any image, and leaves the
    index beside the prepared data, from where later calls take it.

    Raises:
        InputError: there is no such split, it is empty, or it cannot be read.
    """
    records.check_split(builder, split)
    path = epath.Path(builder.data_dir) / f"index-{split}.npz"
    index = _load(path, images=builder.info.splits[split].num_examples)
    if index is None:
        index = _build(builder, split)
        _save(index, path)
    return index


def _build(builder: tfds.core.DatasetBuilder, split: str) -> SplitIndex:
    image_ids, region_count, captions = _read(builder, split)
    distinct = dict.fromkeys(image_ids)
    dense = {image_id: number for number, image_id in enumerate(distinct)}
    image_id = np.array([dense[image_id] for image_id in image_ids], np.int32)
    caption_counts = np.array([len(some) for some in captions], np.int64)
    flat = list(itertools.chain.from_iterable(captions))
    words, word_ids, word_count = _tokenize_all(flat, split)
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
    """Returns image_id, region_count and captions of each record."""
    reader = records.RecordReader(builder, split)
    content = records.content_of(builder)
    numbers = np.arange(len(reader))
    parts = np.split(numbers, numbers[_READ_AT_ONCE::_READ_AT_ONCE])
    dataset = records.dataset_of_records(reader, parts).map(
        lambda serialized: records.parse_captions(content, serialized)
    )
    image_ids, region_counts, captions = [], [], []
    try:
        with _progress(f"reading captions of {split}", len(reader)) as progress:
            for some_ids, some_captions, some_counts in dataset.prefetch(1):
                image_ids += some_ids.numpy().tolist()
                captions += some_captions.to_list()
                region_counts.append(some_counts.numpy())
                progress.update(len(some_counts))
        image_ids = [image_id.decode() for image_id in image_ids]
        captions = [[caption.decode() for caption in some] for some in captions]
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise records.unreadable(builder, split, error) from error
    return image_ids, np.concatenate(region_counts).astype(np.int32), captions


def _tokenize_all(
    captions: list[str], split: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns the distinct words, the flat positions in them, and words per caption."""
    positions: dict[str, int] = {}
    flat, counts = array.array("i"), array.array("q")
    with _progress(f"splitting captions of {split}", len(captions)) as progress:
        for caption in captions:
            tokens = tokenize(caption)
            flat.extend(positions.setdefault(word, len(positions)) for word in tokens)
            counts.append(len(tokens))
            progress.update()
    return list(positions), np.array(flat, np.int32), np.array(counts, np.int64)


def _progress(text: str, total: int) -> tqdm.tqdm:
    return tqdm.tqdm(desc=text, total=total, delay=1, leave=False, disable=None)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _save(index: SplitIndex, path: epath.Path) -> None:
    arrays = {"version": np.array(_VERSION)}
    for field in dataclasses.fields(index):
        value = getattr(index, field.name)
        if isinstance(value, list):
            arrays[f"{field.name}.text"], arrays[f"{field.name}.length"] = pack(value)
        else:
            arrays[field.name] = value
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        with tfds.core.utils.incomplete_file(path) as unfinished:
            unfinished.write_bytes(buffer.getbuffer())
    except OSError as error:
        logger.warning(
            "%s: cannot be written, so every start reads anew: %s", path, error
        )


def _load(path: epath.Path, images: int) -> SplitIndex | None:
    """Returns the cached index, or None if there is none that fits."""
    if not path.exists():
        return None
    try:
        arrays = np.load(io.BytesIO(path.read_bytes()))
        if arrays["version"] != _VERSION or len(arrays["image_id"]) != images:
            return None
        return _index_of(arrays)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s: damaged, so it is made anew: %s", path, error)
        return None


def _index_of(arrays: np.lib.npyio.NpzFile) -> SplitIndex:
    names = [field.name for field in dataclasses.fields(SplitIndex)]
    return SplitIndex(**{name: _field(arrays, name) for name in names})


def _field(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray | list[str]:
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
            f"{split!r} has no caption; expected at least one; mend the source and "
            "prepare anew"
        )
