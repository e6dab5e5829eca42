"""Computes and compares the identity of a dataset, a digest of its content.

Two datasets are the same if their splits have the same images and captions in the same
order, wherever their files are. For each image the identity stores its image_id, a
digest of the stored content and a digest of its captions. These show which images
differ.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.array_files import read_npz
from vse_jax.data import records
from vse_jax.data.string_arrays import pack, unpack
from vse_jax.progress import Progress

logger = logging.getLogger(__name__)

_CACHE = "identity.npz"  # beside the prepared data
_VERSION = 1  # of the cache and of the digests
_READ_AT_ONCE = 64  # records


@dataclasses.dataclass(frozen=True)
class SplitIdentity:
    """The content of a split, one entry per record.

    Attributes:
      image_ids: image_id strings.
      image_digests: uint64 `[images]`, digest of the stored photo, regions or feature.
      caption_digests: uint64 `[images]`, digest of all captions of an image.
      caption_count: number of captions of the split.
    """

    image_ids: list[str]
    image_digests: np.ndarray
    caption_digests: np.ndarray
    caption_count: int

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the split."""
        digest = hashlib.sha256("\0".join(self.image_ids).encode())
        for array in (self.image_digests, self.caption_digests):
            digest.update(array.astype("<u8").tobytes())
        return digest.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class DatasetIdentity:
    """The content of a dataset.

    Attributes:
      content: stored image content: `image`, `regions` or `feature`.
      splits: identity of each split by name.
    """

    content: str
    splits: Mapping[str, SplitIdentity]

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the dataset."""
        parts = [f"{name} {split.digest}" for name, split in self.splits.items()]
        return hashlib.sha256("\n".join([self.content, *parts]).encode()).hexdigest()

    def summary(self) -> dict:
        """Returns the JSON that a checkpoint stores."""
        return {
            "digest": self.digest,
            "content": self.content,
            "splits": {
                name: {
                    "images": len(split.image_ids),
                    "captions": split.caption_count,
                    "digest": split.digest,
                }
                for name, split in self.splits.items()
            },
        }

    def to_bytes(self) -> bytes:
        """Returns the identity as the content of an `.npz` file."""
        arrays = {"version": np.array(_VERSION), "content": np.array(self.content)}
        for name, split in self.splits.items():
            text, lengths = pack(split.image_ids)
            arrays |= {
                f"{name}/text": text,
                f"{name}/lengths": lengths,
                f"{name}/images": split.image_digests,
                f"{name}/captions": split.caption_digests,
                f"{name}/caption_count": np.array(split.caption_count),
            }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "DatasetIdentity":
        """Returns the identity that `to_bytes` serialized.

        Raises:
          ValueError: if the content is damaged or has another version.
        """
        try:
            arrays = read_npz(content)
            if arrays["version"] != _VERSION:
                raise ValueError("it has another version")
            names = [n.removesuffix("/images") for n in arrays if n.endswith("/images")]
            return cls(
                str(arrays["content"]),
                {
                    name: SplitIdentity(
                        unpack(arrays[f"{name}/text"], arrays[f"{name}/lengths"]),
                        arrays[f"{name}/images"],
                        arrays[f"{name}/captions"],
                        int(arrays[f"{name}/caption_count"]),
                    )
                    for name in names
                },
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def identity_of(builder: tfds.core.DatasetBuilder) -> DatasetIdentity:
    """Returns the identity of a prepared dataset.

    The first call reads the dataset and caches the result beside it. File sizes and
    modification times show whether the cache is still valid.

    Raises:
      InputError: if the dataset cannot be read.
    """
    path = epath.Path(builder.data_dir) / _CACHE
    status = json.dumps(status_of(builder))
    cached = _load(path, status)
    if cached is not None:
        return cached
    content = records.content_of(builder)
    splits = {
        name: _read_split(builder, name, content)
        for name, info in builder.info.splits.items()
        if info.num_examples
    }
    identity = DatasetIdentity(content.key, splits)
    _save(identity, path, status)
    return identity


def read(path: epath.Path) -> DatasetIdentity | None:
    """Reads an identity from a file; returns None if it is absent or damaged."""
    try:
        return DatasetIdentity.from_bytes(path.read_bytes())
    except (OSError, ValueError):
        return None


def write(identity: DatasetIdentity, path: epath.Path) -> None:
    """Writes an identity to a file atomically."""
    with files.unfinished(path, shared=True) as unfinished:
        unfinished.write_bytes(identity.to_bytes())


def difference(
    saved: Mapping, before: DatasetIdentity | None, now: DatasetIdentity
) -> str | None:
    """Describes how a dataset differs from its saved identity.

    Args:
      saved: the saved summary.
      before: the saved identity, or None if it cannot be read.
      now: the current identity of the dataset.

    Returns:
      A phrase such as `train: 3 photos changed, such as p001.jpg`; None if nothing
      differs.
    """
    if saved["digest"] == now.digest:
        return None
    if before is None or before.digest != saved["digest"]:
        return _difference_of_summaries(saved, now.summary())
    if before.content != now.content:
        return f"its images are stored as {now.content!r}, not {before.content!r}"
    phrases = [
        f"{name}: {phrase}"
        for name in dict.fromkeys([*before.splits, *now.splits])
        if _digest_in(before, name) != _digest_in(now, name)
        for phrase in _split_difference(
            before.splits.get(name), now.splits.get(name), now.content
        )
    ]
    return "; ".join(phrases) or "its splits are in another order"


def _digest_in(identity, name):
    return identity.splits[name].digest if name in identity.splits else None


def _difference_of_summaries(saved, now):
    names = dict.fromkeys([*saved["splits"], *now["splits"]])
    changed = [
        f"the content of {name} changed"
        for name in names
        if saved["splits"].get(name) != now["splits"].get(name)
    ]
    return "; ".join(changed) or f"its images are {now['content']}"


def _split_difference(before, now, content) -> list[str]:
    if before is None or now is None:
        return ["the split is new" if before is None else "the split is missing"]
    old, new = _entries(before), _entries(now)
    common = [key for key in new if key in old]
    changed = [key for key in common if old[key][0] != new[key][0]]
    other_captions = [key for key in common if old[key][1] != new[key][1]]
    missing = [key for key in old if key not in new]
    added = [key for key in new if key not in old]
    images = functools.partial(_count, "photo" if content == "image" else "image")
    features = "" if content == "image" else "features of "
    changes = [
        (changed, f"{features}{images(changed)} changed"),
        (other_captions, f"captions of {images(other_captions)} changed"),
        (missing, f"{images(missing)} missing"),
        (added, f"{images(added)} added"),
    ]
    named = [f"{what}, such as {keys[0][0][:100]}" for keys, what in changes if keys]
    return named or ["the images are in another order"]


def _count(noun, keys):
    return f"{len(keys):,} {noun}{'' if len(keys) == 1 else 's'}"


def _entries(split: SplitIdentity) -> dict:
    """Returns digests by image_id and its occurrence, as records may share an id."""
    seen = collections.Counter()
    entries = {}
    for image_id, image, captions in zip(
        split.image_ids, split.image_digests, split.caption_digests, strict=True
    ):
        entries[image_id, seen[image_id]] = (image, captions)
        seen[image_id] += 1
    return entries


def _read_split(builder, name, content) -> SplitIdentity:
    reader = records.RecordReader(builder, name)
    numbers = np.arange(len(reader))
    parts = np.split(numbers, numbers[_READ_AT_ONCE::_READ_AT_ONCE])
    dataset = records.dataset_of_records(reader, parts).map(
        lambda serialized: (
            *records.parse_captions(content, serialized)[:2],
            records.parse_stored(content, serialized),
        )
    )
    image_ids, image_digests, caption_digests, caption_count = [], [], [], 0
    try:
        with Progress(f"checking {name}", len(reader), "images") as progress:
            for some_ids, captions, stored in dataset.prefetch(1):
                image_ids += some_ids.numpy().tolist()
                image_digests += map(_digest, _rows(stored))
                caption_digests += [_digest(b"\0".join(c)) for c in captions.to_list()]
                caption_count += int(captions.flat_values.shape[0])
                progress.add(len(some_ids))
        image_ids = [image_id.decode() for image_id in image_ids]
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise records.unreadable(builder, name, error) from error
    return SplitIdentity(
        image_ids,
        np.array(image_digests, np.uint64),
        np.array(caption_digests, np.uint64),
        caption_count,
    )


def _rows(stored) -> Iterator[bytes]:
    if isinstance(stored, tf.RaggedTensor):  # values that are stored as a list
        values, ends = stored.flat_values.numpy(), stored.row_splits.numpy()
        return (values[a:b].tobytes() for a, b in itertools.pairwise(ends))
    return iter(stored.numpy())


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def status_of(builder: tfds.core.DatasetBuilder) -> list:
    """Returns the names, sizes and times of all files of a prepared dataset.

    Raises:
      InputError: if a file is missing or cannot be read.
    """
    return [
        entry
        for split in builder.info.splits
        for entry in records.status_of_split(builder, split)
    ]


def _load(path: epath.Path, status: str) -> DatasetIdentity | None:
    try:
        content = path.read_bytes()
        saved_status, _, identity = content.partition(b"\n")
        if saved_status.decode() != status:
            return None
        return DatasetIdentity.from_bytes(identity)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged (%s) and will be computed again", path, error)
        return None


def _save(identity: DatasetIdentity, path: epath.Path, status: str) -> None:
    try:
        with files.unfinished(path, shared=True) as unfinished:
            unfinished.write_bytes(status.encode() + b"\n" + identity.to_bytes())
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s), so every start reads the dataset", path, error
        )
