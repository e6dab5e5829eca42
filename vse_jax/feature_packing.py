"""Features in device memory: how a record is stored, and a batch's features are found.

A record is stored as 32-bit words, since these are what all devices add exactly: a word
has one number of 32 bits, or two of 16 bits, of which the first is in the first half of
a region and the second in the second half. The words of a record are in rows of 128, as
the TPU lays arrays out; otherwise it would copy the whole table in every step.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax import parallel

_LANES = 128


class Packing:
    """How the features of a record are stored in words."""

    def __init__(self, key: str, shape: tuple[int, ...], dtype: np.dtype):
        """Initializes the packing.

        Args:
          key: name of the features in a batch, `regions` or `feature`.
          shape: shape of a record, `[regions, dim]` or `[dim]`.
          dtype: dtype of a record.
        """
        self._key = key
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
        words = self.words_of_regions(words)
        if "region_source" in batch:
            source = batch.pop("region_source")
            words = _move_regions(words, source, batch["region_count"])
        content = self.numbers_of_words(words)
        if self._key == "feature":
            content = content.astype(jnp.float32)
        return batch | {self._key: content}

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


def _move_regions(
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


def gigabytes(size: int) -> str:
    """Returns a size in bytes for people, such as `2.1 GB`."""
    return f"{size / 1e9:.2g} GB" if size < 1e9 else f"{size / 1e9:.1f} GB"
