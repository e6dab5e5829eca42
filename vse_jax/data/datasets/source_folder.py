"""The folder `data.root` from which a dataset is prepared, and what its files tell."""

import hashlib
import os
import re
from collections.abc import Iterable

from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, unreadable

SizeAndTime = list[int]  # bytes; nanoseconds, or whole seconds where remote


def absolute(root: str) -> epath.Path | None:
    """Returns the folder that an option names; None if it names none."""
    if not root:
        return None
    if files.is_local(root):
        root = os.path.abspath(os.path.expanduser(root))
    return epath.Path(root)


def name_of(root: epath.Path | None, annotations: str = "") -> str | None:
    """Returns a name that tells folders of the same basename apart."""
    if root is None:
        return None
    origin = "\n".join(filter(None, (os.fspath(root), annotations)))
    digest = hashlib.sha256(origin.encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', root.name)}-{digest[:6]}"


def check_is_folder(root: epath.Path | None, holds: str) -> None:
    """Raises InputError if there is no such folder.

    Args:
      root: the folder, None if `data.root` is not set.
      holds: what the folder should hold, for the message.
    """
    if root is None:
        raise InputError(
            f"data.root is not set; set it to the folder that holds {holds} (or "
            "data.name to the name of prepared data)"
        )
    if not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder; set data.root to the folder that holds "
            f"{holds}"
        )


def size_and_time(path: epath.Path) -> SizeAndTime:
    """Returns size and time of change of a file."""
    try:
        status = os.stat(path)
    except OSError:  # a remote path: whole seconds must do
        status = path.stat()
        return [status.length, int(status.mtime)]
    return [status.st_size, status.st_mtime_ns]


class Listing:
    """Sizes and times of the files below a folder.

    Each folder is listed once, which for many files is much faster than to ask for
    each. Of remote files only the names are known; sizes and times are 0.
    """

    def __init__(self, root: epath.Path):
        """Lists nothing yet."""
        self._root = root
        self._folders: dict[str, dict[str, SizeAndTime]] = {}

    def find(self, path: str) -> SizeAndTime | None:
        """Returns size and time of a file; None if it is absent.

        Args:
          path: below the root, with slashes.

        Raises:
          InputError: if its folder is there, but cannot be read.
        """
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._list(self._root / folder)
        return self._folders[folder].get(name)

    def _list(self, folder: epath.Path) -> dict[str, SizeAndTime]:
        try:
            if not files.is_local(folder):
                return {path.name: [0, 0] for path in folder.iterdir()}
            with os.scandir(folder) as entries:
                return dict(_statuses(entries))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise unreadable(folder, error) from None


def _statuses(entries: Iterable[os.DirEntry]) -> Iterable[tuple[str, SizeAndTime]]:
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            continue
        yield entry.name, [status.st_size, status.st_mtime_ns]
