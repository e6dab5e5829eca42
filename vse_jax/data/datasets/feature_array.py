"""Feature arrays in `.npy` files: checked by their header, read some rows at a time."""

import abc
import dataclasses
import math
import os
import shlex
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from etils import epath

from vse_jax.array_files import DAMAGED
from vse_jax.errors import InputError, unreadable

FEATURES_ENDING = "_ims.npy"
COUNTS_ENDING = "_counts.npy"

CHUNK_BYTES = 16 * 2**20  # that are read at once
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Pads arrays of objects. Arguments: file of the features, file of the counts.
_PAD_OBJECTS = (
    "import sys,numpy as n; f,c=sys.argv[1:]; "
    'x=[n.atleast_2d(n.asarray(r,"f")) for r in n.load(f,allow_pickle=True)]; '
    "k=[len(r) for r in x]; "
    'p=n.zeros((len(x),max(k),x[0].shape[1]),"f"); '
    "[n.copyto(p[i,:len(r)],r) for i,r in enumerate(x)]; "
    "n.save(c,k); n.save(f,p)"
)


class RowArray(abc.ABC):
    """An array of a file, `[rows, regions, dim]` or `[rows, dim]`.

    Attributes:
      path: of the file.
      shape: of the array.
      dtype: of the array.
    """

    path: epath.Path
    shape: tuple[int, ...]
    dtype: np.dtype

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

    @abc.abstractmethod
    def row_name(self, row: int) -> str:
        """Returns how messages name a row, which counts from 0."""

    @abc.abstractmethod
    def chunks(
        self, start: int, stop: int, multiple_of: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields rows `start` to `stop - 1` in chunks of some megabytes.

        Args:
          start: first row.
          stop: behind the last row.
          multiple_of: each chunk has a multiple of this many rows.

        Yields:
          The number of a chunk's first row, and its rows `[rows, ...]`.

        Raises:
          InputError: if the file cannot be read.
        """


@dataclasses.dataclass(frozen=True)
class FeatureArray(RowArray):
    """A float array `[images, regions, dim]` or `[images, dim]` in a `.npy` file.

    The file is read at offsets: the pages of a memory map would count as resident
    memory, and the file may be on a remote file system.
    """

    path: epath.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes before the first row

    def row_name(self, row: int) -> str:
        """Returns how messages name a row, which counts from 0."""
        return f"{self.path}: row {row}"

    def chunks(
        self, start: int, stop: int, multiple_of: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields chunks of rows; see `RowArray.chunks`."""
        groups = max(1, CHUNK_BYTES // (self.row_bytes * multiple_of))
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
      InputError: if the file cannot be read, is no `.npy` file, is truncated, or does
        not hold floats `[images, regions, dim]` or `[images, dim]`.
    """
    try:
        with path.open("rb") as file:
            shape, column_major, dtype = _read_header(path, file, "floats")
            array = FeatureArray(path, shape, dtype, file.tell())
        if dtype.hasobject:
            raise _holds_objects(path)
        check_layout(path, shape, dtype)
        if column_major:
            raise InputError(
                f"{path}: is stored in column-major (Fortran) order; save "
                "numpy.ascontiguousarray(features) instead"
            )
        _check_size(path, shape, dtype, array.offset)
    except OSError as error:
        raise unreadable(path, error) from None
    return array


def read_integers(path: epath.Path, length_limit: int) -> np.ndarray:
    """Reads a `.npy` file of integers `[length]` as int64.

    Args:
      path: of the file.
      length_limit: largest length that is read, since it may be any file.

    Raises:
      InputError: if the file cannot be read, is no `.npy` file, is truncated, is too
        long, or does not hold integers of one axis.
    """
    try:
        with path.open("rb") as file:
            shape, _, dtype = _read_header(path, file, "integers")
            if dtype.kind not in "iu":
                raise InputError(
                    f"{path}: holds values of type {str(dtype)[:80]}; expected "
                    "integers, one for each image"
                )
            if len(shape) != 1 or shape[0] > length_limit:
                raise InputError(
                    f"{path}: has the shape {list(shape)}; expected [images], at most "
                    f"{length_limit}"
                )
            _check_size(path, shape, dtype, file.tell())
            values = np.frombuffer(file.read(), dtype)
    except OSError as error:
        raise unreadable(path, error) from None
    return as_int64(values)


def as_int64(values: np.ndarray) -> np.ndarray:
    """Converts integers of any type; the largest uint64 do not become negative."""
    if values.dtype.kind == "u":
        values = np.minimum(values.astype(np.uint64), np.uint64(2**63 - 1))
    return values.astype(np.int64)


def check_layout(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises InputError unless an array is of floats and has two or three axes.

    Args:
      name: of the array, which begins the message.
      shape: of the array.
      dtype: of the array.
    """
    check_float(name, dtype)
    if len(shape) not in (2, 3):
        raise InputError(
            f"{name}: has the shape {list(shape)}; expected [images, regions, dim] or "
            "[images, dim]"
        )
    if 0 in shape:
        raise InputError(
            f"{name}: is empty, its shape is {list(shape)}; remove the split's files "
            "or fill them"
        )


def check_float(name: str, dtype: np.dtype) -> None:
    """Raises InputError unless `dtype` is float16, float32 or float64.

    Args:
      name: of the array, which begins the message.
      dtype: of the array, in any byte order.
    """
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return
    advice = "convert the features and save them again"
    if dtype.kind in "iu":
        advice = (
            "if the features are quantized, multiply them by their scale and save "
            "them as float32"
        )
    raise InputError(
        f"{name}: holds values of type {str(dtype)[:80]}; expected float16, float32 or "
        f"float64: {advice}"
    )


def _read_header(
    path: epath.Path, file: BinaryIO, expected: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        shape, column_major, dtype = _HEADER_READERS[version](file)
        # numpy takes negative lengths, and True for 1.
        if any(isinstance(length, bool) or length < 0 for length in shape):
            raise ValueError("the shape is none of an array")
        return shape, column_major, dtype
    except DAMAGED:
        raise InputError(
            f"{path}: is not a .npy file (or its header is damaged); expected "
            f"{expected} written by numpy.save"
        ) from None


def _holds_objects(path: epath.Path) -> InputError:
    """Returns the error for pickled arrays, which can run any code when they load."""
    features = os.fspath(path)
    counts = features.removesuffix(FEATURES_ENDING) + COUNTS_ENDING
    command = shlex.join(["python", "-c", _PAD_OBJECTS, features, counts])
    return InputError(
        f"{features}: holds pickled Python objects, which are not read; for images "
        f"with different numbers of regions save in {path.name} an array [images, "
        "most regions, dim] padded with zeros, and the numbers of regions in "
        f"{counts}; if you trust the file, this command does both: {command}"
    )


def _check_size(
    path: epath.Path, shape: tuple[int, ...], dtype: np.dtype, offset: int
) -> None:
    size = path.stat().length
    expected = offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise InputError(
            f"{path}: is {'truncated' if size < expected else 'too long'}: its "
            f"header says {list(shape)} {dtype}, which takes {expected} bytes, and "
            f"the file has {size}; copy or extract it again"
        )
