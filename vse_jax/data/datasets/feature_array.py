"""Feature arrays in `.npy` files: checked by their header, read some rows at a time."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from etils import epath

from vse_jax.errors import InputError, unreadable

_CHUNK_BYTES = 16 * 2**20
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True)
class FeatureArray:
    """A float array `[images, regions, dim]` or `[images, dim]` in a `.npy` file.

    Plain reads at offsets serve it, as the pages of a memory map would count as
    resident memory, and as the file may be on a remote file system.
    """

    path: epath.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes before the first row

    @property
    def dim(self) -> int:
        """Dimensions of one region's feature, or of an image's."""
        return self.shape[-1]

    @property
    def has_regions(self) -> bool:
        """Whether an image has several regions rather than one feature."""
        return len(self.shape) == 3

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the file."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def chunks(
        self, start: int, stop: int, multiple_of: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields rows `start` to `stop - 1` in chunks of some megabytes.

        Args:
          start: first row.
          stop: behind the last row.
          multiple_of: every chunk holds a multiple of so many rows.

        Yields:
          The number of a chunk's first row, and its rows `[rows, ...]`.

        Raises:
          InputError: if the file cannot be read.
        """
        groups = max(1, _CHUNK_BYTES // (self.row_bytes * multiple_of))
        step = groups * multiple_of
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset + start * self.row_bytes)
                for first in range(start, stop, step):
                    count = min(step, stop - first)
                    yield first, self._parse(file.read(count * self.row_bytes), count)
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _parse(self, content: bytes, count: int) -> np.ndarray:
        if len(content) != count * self.row_bytes:
            raise InputError(
                f"{self.path}: ended early while it was read; is it still being "
                "written? Try again when it is complete"
            )
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def open_feature_array(path: epath.Path) -> FeatureArray:
    """Reads and checks the header of a `.npy` file, and its size.

    Raises:
      InputError: if the file cannot be read, is no `.npy` file, is truncated, or holds
        something else than floats `[images, regions, dim]` or `[images, dim]`.
    """
    try:
        with path.open("rb") as file:
            shape, column_major, dtype = _read_header(path, file)
            array = FeatureArray(path, shape, dtype, file.tell())
        _check_layout(array, column_major)
        _check_size(array, path.stat().length)
    except OSError as error:
        raise unreadable(path, error) from None
    return array


def _read_header(path: epath.Path, file) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        return _HEADER_READERS[version](file)
    except (ValueError, KeyError):
        raise InputError(
            f"{path}: is not a .npy file (or its header is damaged); expected floats "
            "written by numpy.save"
        ) from None


def _check_layout(array: FeatureArray, column_major: bool) -> None:
    if array.dtype.hasobject:
        raise InputError(
            f"{array.path}: holds pickled Python objects; expected a plain float "
            "array, as numpy.save writes of numpy.stack(features)"
        )
    if array.dtype.kind != "f":
        raise InputError(
            f"{array.path}: holds values of type {array.dtype}; expected float16, "
            "float32 or float64"
        )
    if len(array.shape) not in (2, 3):
        raise InputError(
            f"{array.path}: has the shape {list(array.shape)}; expected "
            "[images, regions, dim] or [images, dim]"
        )
    if 0 in array.shape:
        raise InputError(
            f"{array.path}: is empty, its shape is {list(array.shape)}; remove the "
            "split's files or fill them"
        )
    if column_major:
        raise InputError(
            f"{array.path}: is stored in column-major order; save "
            "numpy.ascontiguousarray(features) instead"
        )


def _check_size(array: FeatureArray, size: int) -> None:
    expected = array.offset + array.shape[0] * array.row_bytes
    if size != expected:
        raise InputError(
            f"{array.path}: is {'truncated' if size < expected else 'too long'}: its "
            f"header says {list(array.shape)} {array.dtype}, which takes {expected} "
            f"bytes, and the file has {size}; copy or extract it again"
        )
