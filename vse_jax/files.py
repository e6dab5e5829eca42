"""Files that are written whole, or not at all."""

import contextlib
from collections.abc import Iterator

from etils import epath

UNFINISHED = "incomplete."  # before the name of a file that is being written


@contextlib.contextmanager
def unfinished(path: epath.Path) -> Iterator[epath.Path]:
    """Gives another path to write to, which becomes `path` if all goes well."""
    other = path.parent / f"{UNFINISHED}{path.name}"
    yield other
    other.replace(path)


@contextlib.contextmanager
def reporting_array_record() -> Iterator[None]:
    """Raises OSError where ArrayRecord's writer tells of a full disk.

    It does so by a RuntimeError, of which the first part is the reason.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(";")[0]) from error
