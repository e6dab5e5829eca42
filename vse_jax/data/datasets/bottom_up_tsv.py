"""Bottom-up attention's TSV files: one image per line, its features in base64.

Fields are separated by tabs: `image_id`, `image_w`, `image_h` (in either order),
`num_boxes`, `boxes`, `features`; or the ten of LXMERT, whose last three are the same. A
first line with these names is allowed. `features` is base64 of little-endian float32
`[num_boxes, dim]`. The files have tens of gigabytes, so only the positions of their
lines are kept in memory.
"""

import base64
import binascii
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from etils import epath

from vse_jax import files
from vse_jax.data.datasets.padded_features import StoredImage
from vse_jax.data.datasets.zero_regions import ZeroReport
from vse_jax.errors import InputError, unreadable
from vse_jax.excerpts import excerpt
from vse_jax.progress import Progress

logger = logging.getLogger(__name__)

DTYPE = np.dtype("<f4")
_LINE_BYTES = 64 * 2**20  # of the longest line that is read
_ID_NAMES = (b"image_id", b"img_id")
_EXPECTED = "image_id, image_w, image_h, num_boxes, boxes, features"


class _Columns(NamedTuple):
    """Positions of the fields that are read, and how many fields a line has."""

    image_id: int
    num_boxes: int
    features: int
    count: int


class _Line(NamedTuple):
    """One line, split into fields but not decoded."""

    image_id: str
    boxes: int
    encoded: bytes


class Row(NamedTuple):
    """Where the line of an image is."""

    file: int  # position in `TsvIndex.paths`
    line: int  # from 1
    offset: int  # bytes before it
    boxes: int
    columns: _Columns


@dataclasses.dataclass(frozen=True, eq=False)
class TsvIndex:
    """The lines of some files, by image id.

    Attributes:
      paths: of the files.
      rows: of each image id, over all files.
      dim: dimensions of a feature.
    """

    paths: tuple[epath.Path, ...]
    rows: dict[str, Row]
    dim: int

    @property
    def name(self) -> str:
        """The files, for messages."""
        more = len(self.paths) - 1
        names = ", ".join(path.name for path in self.paths[:2])
        return names if more < 2 else f"{names} and {more - 1} more"


@dataclasses.dataclass(frozen=True, eq=False)
class TsvFeatures:
    """The features of a split's images, in the order of `image_ids`.

    All ids are in the index.
    """

    index: TsvIndex
    image_ids: Sequence[str]

    has_regions = True
    dtype = DTYPE

    @property
    def path(self) -> epath.Path:
        """The first file."""
        return self.index.paths[0]

    @property
    def dim(self) -> int:
        """Dimensions of a feature."""
        return self.index.dim

    @property
    def image_bytes(self) -> int:
        """Bytes of the largest image."""
        most = max(self.index.rows[image_id].boxes for image_id in self.image_ids)
        return most * self.dim * DTYPE.itemsize

    @property
    def shape_text(self) -> str:
        """The shape, for messages."""
        return f"[{len(self.image_ids)}, regions, {self.dim}]"

    def images(
        self, start: int, stop: int, report: ZeroReport
    ) -> Iterator[StoredImage]:
        """Yields images `start` to `stop - 1`, each `[num_boxes, dim]` float32.

        Raises:
          InputError: if a line cannot be read or decoded, or has changed.
        """
        del report  # the file says how many regions there are
        with contextlib.ExitStack() as stack:
            opened: dict[int, BinaryIO] = {}
            for image_id in self.image_ids[start:stop]:
                row = self.index.rows[image_id]
                path = self.index.paths[row.file]
                try:
                    if row.file not in opened:
                        opened[row.file] = stack.enter_context(files.open_binary(path))
                    opened[row.file].seek(row.offset)
                    content = opened[row.file].readline(_LINE_BYTES)
                except OSError as error:
                    raise unreadable(path, error) from None
                yield self._decode(path, row, image_id, content)

    def _decode(
        self, path: epath.Path, row: Row, image_id: str, content: bytes
    ) -> StoredImage:
        line = _take_apart(path, row.line, content, row.columns)
        if (line.image_id, line.boxes) != (image_id, row.boxes):
            raise _wrong(path, row.line, "has changed while the file was read")
        try:
            decoded = base64.b64decode(line.encoded, validate=True)
        except binascii.Error as error:
            reason = f"(image id {excerpt(image_id)}) holds damaged base64 ({error})"
            raise _wrong(path, row.line, reason) from None
        _check_size(path, row.line, line, len(decoded), self.dim)
        place = f"{path}: line {row.line} (image id {excerpt(image_id)})"
        values = np.frombuffer(decoded, DTYPE).reshape(row.boxes, self.dim)
        return StoredImage(place, values)


def index_files(paths: Sequence[epath.Path]) -> TsvIndex:
    """Reads all files once, and checks each line but its base64.

    Raises:
      InputError: if a line is invalid or repeats an image id; names it.
    """
    rows: dict[str, Row] = {}
    dim = 0
    for number, path in enumerate(paths):
        try:
            for row, line in _scan(path, number):
                size = _decoded_size(path, row.line, line)
                dim = dim or _dim_of(path, row.line, line, size)
                _check_size(path, row.line, line, size, dim)
                if line.image_id in rows:
                    raise _repeated(paths, line.image_id, rows[line.image_id], row)
                rows[line.image_id] = row
        except OSError as error:
            raise unreadable(path, error) from None
    if not rows:
        raise InputError(
            f"{paths[0]}: is empty; expected lines of {_EXPECTED}, separated by tabs"
        )
    return TsvIndex(tuple(paths), rows, dim)


def _scan(path: epath.Path, number: int) -> Iterator[tuple[Row, _Line]]:
    """Yields the lines of a file in their order."""
    columns, offset = None, 0
    what, size = f"indexing {path.name}", path.stat().length
    with (
        files.open_binary(path) as file,
        Progress(what, size, "bytes") as progress,
    ):
        for line_number, content in enumerate(_lines(path, file), 1):
            begin, offset = offset, offset + len(content)
            progress.add(len(content))
            if not content.strip():
                continue
            if columns is None:
                columns, is_header = _columns_of(path, content)
                if is_header:
                    continue
            line = _take_apart(path, line_number, content, columns)
            yield Row(number, line_number, begin, line.boxes, columns), line


def _lines(path: epath.Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while content := file.readline(_LINE_BYTES):
        number += 1
        if len(content) == _LINE_BYTES:
            raise _wrong(path, number, f"has more than {_LINE_BYTES} bytes")
        yield content


def _columns_of(path: epath.Path, content: bytes) -> tuple[_Columns, bool]:
    """Returns the columns, and whether this first line is a header."""
    names = [name.strip() for name in _fields(content)]
    count = len(names)
    if names[0] in _ID_NAMES:
        if {b"num_boxes", b"features"} <= set(names):
            places = (names.index(name) for name in (b"num_boxes", b"features"))
            return _Columns(0, *places, count), True
        raise InputError(
            f"{path}: line 1 names the fields {b', '.join(names)[:200]!r}; expected "
            f"{_EXPECTED}"
        )
    if count not in (6, 10):
        raise _wrong(path, 1, _count_text(count, 6))
    return _Columns(0, count - 3, count - 1, count), False


def _fields(content: bytes) -> list[bytes]:
    return content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\t")


def _take_apart(
    path: epath.Path, number: int, content: bytes, columns: _Columns
) -> _Line:
    fields = _fields(content)
    if len(fields) != columns.count:
        raise _wrong(path, number, _count_text(len(fields), columns.count))
    try:
        image_id = fields[columns.image_id].decode().strip()
    except UnicodeDecodeError:
        raise _wrong(path, number, "has an image id that is not UTF-8") from None
    text = fields[columns.num_boxes].strip()
    # Few digits, as Python refuses to convert thousands of them.
    if not (text.isdigit() and len(text) < 10 and int(text) > 0):
        raise _wrong(
            path,
            number,
            f"(image id {excerpt(image_id)}) has num_boxes "
            f"{text[:20].decode('latin1')!r}, not a number from 1",
        )
    return _Line(image_id, int(text), _without_literal(fields[columns.features]))


def _without_literal(encoded: bytes) -> bytes:
    """Removes `b'...'`, which Python 3 writes with a script made for Python 2."""
    encoded = encoded.strip()
    if encoded[:2] == b"b'" and encoded[-1:] == b"'":
        return encoded[2:-1]
    return encoded


def _decoded_size(path: epath.Path, number: int, line: _Line) -> int:
    """Returns the bytes that base64 stands for."""
    count = len(line.encoded)
    if not count or count % 4:
        raise _wrong(
            path,
            number,
            f"(image id {excerpt(line.image_id)}) is truncated: features has {count} "
            "characters of base64, not a multiple of four",
        )
    return count // 4 * 3 - line.encoded[-2:].count(b"=")


def _dim_of(path: epath.Path, number: int, line: _Line, size: int) -> int:
    dim, rest = divmod(size, line.boxes * DTYPE.itemsize)
    if rest or not dim:
        raise _wrong(
            path,
            number,
            f"(image id {excerpt(line.image_id)}) holds {size} bytes of features, "
            f"which are not float32 of {line.boxes} boxes",
        )
    return dim


def _check_size(
    path: epath.Path, number: int, line: _Line, size: int, dim: int
) -> None:
    expected = line.boxes * dim * DTYPE.itemsize
    if size != expected:
        raise _wrong(
            path,
            number,
            f"(image id {excerpt(line.image_id)}) holds {size} bytes of features, not "
            f"the {expected} of {line.boxes} boxes of {dim} float32, the dimensions of "
            "the first line",
        )


def _count_text(found: int, expected: int) -> str:
    return f"has {found} fields, separated by tabs, not {expected} ({_EXPECTED})"


def _wrong(path: epath.Path, number: int, reason: str) -> InputError:
    return InputError(
        f"{path}: line {number} {reason}; download or extract the file again, or "
        "remove the line"
    )


def _repeated(
    paths: Sequence[epath.Path], image_id: str, first: Row, second: Row
) -> InputError:
    where = f"line {first.line}"
    if first.file != second.file:
        where += f" of {os.fspath(paths[first.file].name)}"
    return InputError(
        f"{paths[second.file]}: line {second.line} repeats the image id "
        f"{excerpt(image_id)} of {where}; expected one line for each image: remove "
        "one of the two"
    )
