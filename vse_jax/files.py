"""Files that are written whole, or not at all."""

import contextlib
import os
import re
import tempfile
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
def unfinished_local(path: epath.Path) -> Iterator[epath.Path]:
    """As `unfinished`, for what writes local files only, as ArrayRecord does."""
    with unfinished(path) as other:
        if is_local(path):
            yield other
            return
        with tempfile.TemporaryDirectory() as folder:
            local = epath.Path(folder) / path.name
            yield local
            local.copy(other, overwrite=True)


def is_local(path: epath.Path) -> bool:
    """Whether the path is not that of an object store, such as `gs://`."""
    return "://" not in os.fspath(path)


def copy_folder(source: epath.Path, target: epath.Path) -> None:
    """Copies the files of a folder; JSON last, without which there is no dataset."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == ".json"):
        path.copy(target / path.name, overwrite=True)


@contextlib.contextmanager
def reporting_array_record() -> Iterator[None]:
    """Raises OSError where ArrayRecord's writer tells of a full disk.

    It does so by a RuntimeError, of which the first part is the reason, such as
    `write() failed: No space left on device`.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(";")[0]
        if not re.match(r"\w+\(\) failed: ", reason):
            raise
        raise OSError(reason) from error
