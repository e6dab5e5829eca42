"""Reads arrays of files that may be damaged."""

import io
import tokenize
import zipfile
import zlib

import numpy as np

# numpy parses a header as Python, so nearly any error of a parser can occur.
DAMAGED = (
    *(ValueError, KeyError, TypeError, EOFError, OverflowError),
    *(SyntaxError, tokenize.TokenError, RecursionError),
)
# RuntimeError: a damaged file may look encrypted, or compressed by another method.
_DAMAGED_ZIP = (*DAMAGED, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz(content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file, of any shapes and dtypes, by their names.

    Each array is compared with its checksum before it is parsed.

    Args:
      content: of the file.

    Raises:
      ValueError: if it is damaged, is no `.npz` file, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(members.read(name)), allow_pickle=False
                )
                for name in members.namelist()
            }
    except _DAMAGED_ZIP as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
