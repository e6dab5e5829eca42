"""Locates `config.data.root` and lists names, sizes and times of its files."""

import dataclasses
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable

from etils import epath

from vse_jax import files, storage
from vse_jax.errors import InputError, unreadable
from vse_jax.excerpts import printable
from vse_jax.storage import SizeAndTime


def absolute(root: str) -> epath.Path | None:
    """Returns the absolute path of an option's folder; None if it is empty."""
    if not root:
        return None
    return epath.Path(files.absolute(root))


def name_of(root: epath.Path | None, annotations: str = "") -> str | None:
    """Returns a name for prepared data, unique even for equal basenames."""
    if root is None:
        return None
    origin = "\n".join(filter(None, (os.fspath(root), annotations)))
    # A path may contain bytes that are not UTF-8.
    digest = hashlib.sha256(origin.encode(errors="surrogateescape")).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', root.name)}-{digest[:6]}"


def check_is_folder(root: epath.Path | None, holds: str) -> None:
    """Raises InputError if the root is not an existing folder.

    Args:
      root: the folder; None if `config.data.root` is not set.
      holds: expected content of the folder, for the message.
    """
    if root is None:
        raise InputError(
            f"config.data.root is not set; set it to the folder that holds {holds} (or "
            "config.data.name to the name of prepared data)"
        )
    if not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder; set config.data.root to the folder that "
            f"holds {holds}"
        )


def below(root: epath.Path, path: str) -> epath.Path:
    """Returns a path below a root; its names are UTF-8 in any locale.

    Args:
      root: the folder.
      path: relative path with slashes; bytes that are not UTF-8 are escaped as by
        `os.fsdecode`.
    """
    if not files.is_local(root):
        return root / path
    return root / os.fsdecode(path.encode(errors="surrogateescape"))


def unreadable_among(paths: list[epath.Path], error: OSError) -> InputError:
    """Returns the error if sizes of files that a folder lists cannot be read.

    Args:
      paths: of the files.
      error: of one of them.
    """
    for path in filter(files.is_local, paths):
        if os.path.islink(path) and not os.path.exists(path):
            target = printable(os.readlink(path))
            return InputError(
                f"{path}: is a broken link to {target}; mend the link, or remove it"
            )
    return unreadable(error.filename or paths[0].parent, error)


# Errors for paths that no file can have.
_NO_SUCH_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


@dataclasses.dataclass(frozen=True)
class _Folder:
    """The entries of a folder.

    Attributes:
      files: sizes and times of files by name.
      folders: names of folders.
    """

    files: dict[str, SizeAndTime]
    folders: frozenset[str]


class Listing:
    """Sizes and times of the files below a folder.

    Each folder is listed once, which is much faster than a query for each of many
    files.
    """

    def __init__(self, root: epath.Path):
        """Initializes the listing; folders are listed when they are needed."""
        self._root = root
        self._folders: dict[str, _Folder] = {}
        self._by_key: dict[tuple[str, Callable], dict[str, list[str]]] = {}

    def find(self, path: str) -> SizeAndTime | None:
        """Returns the size and time of a file; None if it is absent.

        Args:
          path: relative path with slashes.

        Raises:
          InputError: if the folder exists but cannot be read.
        """
        folder, _, name = path.rpartition("/")
        return self._list(folder).files.get(name)

    def folders(self, folder: str) -> list[str]:
        """Returns the sorted names of the folders in a folder."""
        return sorted(self._list(folder).folders)

    def matches(self, path: str, key: Callable[[str], str]) -> list[str]:
        """Returns the files whose paths equal `path` if `key` is applied to each name.

        Args:
          path: relative path with slashes.
          key: function of the name of a file or folder, such as its lower-case form.
        """
        *folders, name = path.split("/")
        found = [""]
        for part in folders:
            found = [
                f"{folder}{same}/"
                for folder in found
                for same in self._named(folder.rstrip("/"), key(part), key)
            ]
        return [
            f"{folder}{same}"
            for folder in found
            for same in self._named(folder.rstrip("/"), key(name), key)
            if self.find(f"{folder}{same}") is not None
        ]

    def _named(self, folder: str, wanted: str, key: Callable[[str], str]) -> list[str]:
        if (folder, key) not in self._by_key:
            by_key = self._by_key[folder, key] = {}
            listed = self._list(folder)
            for name in sorted(listed.files.keys() | listed.folders):
                by_key.setdefault(key(name), []).append(name)
        return self._by_key[folder, key].get(wanted, [])

    def _list(self, folder: str) -> _Folder:
        if folder not in self._folders:
            self._folders[folder] = _list(below(self._root, folder))
        return self._folders[folder]


def _list(folder: epath.Path) -> _Folder:
    try:
        if not files.is_local(folder):
            return _Folder(*storage.list_folder(folder))
        with os.scandir(folder) as entries:
            return _split_entries(entries)
    except (FileNotFoundError, NotADirectoryError):
        return _Folder({}, frozenset())
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return _Folder({}, frozenset())
        raise unreadable(folder, error) from None


def _split_entries(entries: Iterable[os.DirEntry]) -> _Folder:
    statuses, folders = {}, set()
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:  # a broken link
            continue
        # The form that `below` expects, in any locale.
        name = os.fsencode(entry.name).decode(errors="surrogateescape")
        if stat.S_ISDIR(status.st_mode):
            folders.add(name)
        else:
            statuses[name] = [status.st_size, status.st_mtime_ns]
    return _Folder(statuses, frozenset(folders))
