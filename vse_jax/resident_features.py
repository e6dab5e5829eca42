"""The features of the training split in the memory of all devices.

A record is stored as 32-bit words, since these are what all devices add exactly: a word
has one number of 32 bits, or two of 16 bits, of which the first is in the first half of
a region and the second in the second half. The words of a record are in rows of 128, as
the TPU lays arrays out; otherwise it would copy the whole table in every step.
"""

import logging
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from vse_jax import parallel
from vse_jax.data import records
from vse_jax.data.split_index import split_index
from vse_jax.errors import InputError
from vse_jax.experiment import Experiment
from vse_jax.progress import Progress

logger = logging.getLogger(__name__)

_LANES = 128
_BYTES_AT_ONCE = 16 * 2**20  # read in one go
_READS_AT_ONCE = 4


class ResidentFeatures:
    """Features of the training split; padded to the largest number of regions."""

    def __init__(self, experiment: Experiment):
        """Checks the dataset; reads no features.

        Raises:
          InputError: if the dataset has photos, or does not fit into the memory.
        """
        data = experiment.config.data
        self._builder, self._split = experiment.builder, data.train_split
        content = records.content_of(self._builder)
        self._key = content.key
        if self._key == "image":
            raise InputError(
                f"config.data.device_resident is True, but {self._builder.data_dir} "
                "has photos; set it to False, or extract features (--mode=extract)"
            )
        index = split_index(self._builder, self._split, data.tokenizer)
        self._records = index.image_count
        self._regions = int(index.region_count.max())
        spec = records.parsed_spec(content, self._regions)
        self._packing = Packing(
            tuple(spec.shape),
            np.float16 if content.dtype == tf.float16 else spec.dtype.as_numpy_dtype,
        )
        self._check_memory()

    def _check_memory(self):
        rows = parallel.rows_per_device(self._records)
        needed, memory = rows * self._packing.row_bytes, parallel.device_memory()
        if needed <= memory.free:
            return
        devices = jax.device_count()
        raise InputError(
            f"config.data.device_resident is True, but the features of "
            f"{self._builder.data_dir} need {_gigabytes(needed)} on each of {devices} "
            f"devices of {_gigabytes(memory.total)}, of which "
            f"{_gigabytes(memory.free)} are free ({self._records:,} images of "
            f"{self._packing.row_bytes:,} bytes); use more devices, or set it to False"
        )

    def read(self) -> jax.Array:
        """Reads this host's part into its devices' memory.

        Returns:
          The table: a global array `[devices, images, words / 128, 128]` uint32.

        Raises:
          InputError: if it does not fit, or a record cannot be read.
        """
        self._check_memory()
        total = parallel.rows_of_this_host(self._records)
        row_shape = self._packing.row_shape
        with Progress("reading features to the devices", total, "images") as progress:

            def read(part: range) -> Iterator[np.ndarray]:
                for contents in self._contents(part):
                    yield self._packing.pack(contents)
                    progress.add(len(contents))

            table = parallel.fill_table(self._records, row_shape, np.uint32, read)
        logger.info(
            "the features of %s images are in the devices' memory, %s on each",
            f"{self._records:,}",
            _gigabytes(table.nbytes // jax.device_count()),
        )
        parallel.wait_for_hosts("read the features")
        return table

    def _contents(self, part: range) -> Iterator[np.ndarray]:
        at_once = max(1, _BYTES_AT_ONCE // self._packing.row_bytes)
        numbers = [
            np.arange(start, min(start + at_once, part.stop))
            for start in range(part.start, part.stop, at_once)
        ]
        return records.read_contents(
            self._builder, self._split, numbers, self._regions, _READS_AT_ONCE
        )

    def with_content(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Replaces the table in a batch by the batch's features; per-device code.

        Args:
          batch: arrays of a planned batch (see `input_pipeline.train_batches`), and the
            table.

        Returns:
          The batch, as the input pipeline reads it.
        """
        batch = dict(batch)
        words = parallel.take_rows(batch.pop("table"), batch.pop("image_index"))
        words = self._packing.words_of_regions(words)
        if "region_source" in batch:
            source = batch.pop("region_source")
            words = move_regions(words, source, batch["region_count"])
        content = self._packing.numbers_of_words(words)
        if self._key == "feature":
            content = content.astype(jnp.float32)
        return batch | {self._key: content}


class Packing:
    """How the features of a record are stored in words."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        """Takes the shape, `[regions, dim]` or `[dim]`, and the dtype of a record."""
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._per_word = 4 // self._dtype.itemsize
        self._words = -(-shape[-1] // self._per_word)  # of a region
        words = math.prod(shape[:-1]) * self._words
        self.row_shape = (-(-words // _LANES), _LANES)

    @property
    def row_bytes(self) -> int:
        """Size of a stored record."""
        return 4 * math.prod(self.row_shape)

    def pack(self, contents: np.ndarray) -> np.ndarray:
        """Returns stored records, uint32 `[batch, words / 128, 128]`.

        Args:
          contents: `[batch, *shape]`.
        """
        numbers = contents.astype(self._dtype, copy=False)
        numbers = numbers.view(f"u{self._dtype.itemsize}")
        words = numbers[..., : self._words].astype(np.uint32)
        second = numbers[..., self._words :].astype(np.uint32)  # none of 32 bits
        words[..., : second.shape[-1]] |= second << 16
        words = words.reshape(len(words), -1)
        padding = math.prod(self.row_shape) - words.shape[1]
        if padding:
            words = np.pad(words, ((0, 0), (0, padding)))
        return words.reshape(-1, *self.row_shape)

    def words_of_regions(self, rows: jax.Array) -> jax.Array:
        """Returns the words of stored records, `[batch, regions, words]`.

        The axis of regions is absent if the records have none.
        """
        words = math.prod(self._shape[:-1]) * self._words
        flat = rows.reshape(len(rows), -1)[:, :words]
        return flat.reshape(len(rows), *self._shape[:-1], self._words)

    def numbers_of_words(self, words: jax.Array) -> jax.Array:
        """Undoes `pack`, of the words of regions: `[batch, *shape]`."""
        if self._per_word == 2:
            low = (words & 0xFFFF).astype(jnp.uint16)
            high = (words >> 16).astype(jnp.uint16)
            words = jnp.concatenate([low, high], axis=-1)
        numbers = jax.lax.bitcast_convert_type(words, self._dtype)
        return numbers[..., : self._shape[-1]]


def move_regions(
    regions: jax.Array, source: jax.Array, region_count: jax.Array
) -> jax.Array:
    """Gathers each region from its old index, with zeros beyond the count.

    Args:
      regions: `[batch, regions, ...]`.
      source: int32 `[batch, regions]`.
      region_count: int32 `[batch]`.
    """
    moved = jnp.take_along_axis(regions, source[:, :, None], axis=1)
    kept = jnp.arange(regions.shape[1]) < region_count[:, None]
    return jnp.where(kept[:, :, None], moved, 0)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e9 else f"{size / 1e9:.1f} GB"
