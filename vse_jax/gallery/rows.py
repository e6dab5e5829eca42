"""The table of a gallery's rows: what was embedded, in Parquet files."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vse_jax.errors import InputError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("captions", pa.list_(pa.string())),
        pa.field("size", pa.int64()),
        pa.field("modified", pa.float64()),
    ]
)
# Rows of a Parquet file that are read together. Fewer make single rows faster to read,
# and the file larger.
GROUP_ROWS = 8192


class Record(NamedTuple):
    """One row of a gallery, besides its embedding.

    Attributes:
      id: unique name of the row in the gallery, such as the relative path of a photo or
        the ID of an image of a dataset.
      path: path of the photo or text file; None if there is none.
      captions: captions of the image, or the one caption that was embedded; None if
        there are none.
      size: size of the file in bytes; None if there is none.
      modified: modification time of the file in seconds since 1970; None if there is
        none.
    """

    id: str
    path: str | None = None
    captions: Sequence[str] | None = None
    size: int | None = None
    modified: float | None = None


def table_of(records: Sequence[Record]) -> pa.Table:
    """Returns records as a table.

    Raises:
      InputError: if a text is not valid Unicode, such as some names of files.
    """
    columns = zip(*records, strict=True) if records else [()] * len(SCHEMA)
    try:
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, SCHEMA, strict=True)
        ]
    except UnicodeEncodeError as error:
        raise InputError(
            f"{error.object!r} cannot be written as UTF-8; rename the file or correct "
            "the text"
        ) from None
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def record_of(table: pa.Table, row: int) -> Record:
    """Returns one row of a table."""
    values = {name: table[name][row].as_py() for name in SCHEMA.names}
    return Record(**values)


def to_bytes(table: pa.Table) -> bytes:
    """Returns the content of a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", row_group_size=GROUP_ROWS)
    return file.getvalue()
