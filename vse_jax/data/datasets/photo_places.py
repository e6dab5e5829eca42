"""Finds the photos that a file lists below the root.

If the listed path does not exist, the search continues in folders that usually hold
photos (`images`, `train2017`, ...), then with another Unicode form (macOS decomposes
accents), then with another case. A match must be unique.
"""

import dataclasses
import functools
import os
import posixpath
import re
import unicodedata

from etils import epath

from vse_jax.data.datasets import source_folder
from vse_jax.errors import InputError
from vse_jax.excerpts import excerpt, printable

_PHOTO_FOLDER = re.compile(
    r"(images?|imgs?|photos?|pictures?|jpe?g|fli[ck]{1,2}e?r.*"
    r"|(coco_?)?(train|val|dev|test)(20\d\d)?)",
    re.IGNORECASE,
)
_SHOWN = 3  # matching files that a message names


@dataclasses.dataclass(frozen=True)
class ListedPhoto:
    """A photo as a captions file lists it.

    Attributes:
      image_id: name of the photo in results.
      captions: at least one caption.
      places: possible paths below the root, the most likely one first.
    """

    image_id: str
    captions: tuple[str, ...]
    places: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo and its path, which may not exist.

    Attributes:
      image_id: name of the photo in results.
      captions: at least one caption.
      path: path below the root; the most likely one if the photo is absent.
      status: size in bytes and modification time; None if the photo is absent.
      reason: why the photo is absent; "" if it exists.
    """

    image_id: str
    captions: tuple[str, ...]
    path: str
    status: source_folder.SizeAndTime | None
    reason: str = ""


def path_below_root(name: str, root: str | None = None) -> str | None:
    """Returns a normalized path relative to the root; None if it is outside of it.

    Args:
      name: the path, with slashes; an absolute path must be below `root`.
      root: the folder with the photos; None rejects every absolute path.
    """
    if "\0" in name:
        return None
    if root is not None:
        name = _relative(name, root) or name
    path = posixpath.normpath(name)
    leads_out = path.startswith(("/", "../")) or path in (".", "..") or "://" in name
    return None if leads_out else path


def _relative(name: str, root: str) -> str | None:
    """Returns an absolute path relative to the root; None if it is not below it."""
    folder = root.rstrip("/")
    if "://" in name:
        return name[len(folder) + 1 :] if name.startswith(f"{folder}/") else None
    if not name.startswith("/"):
        return None
    parent, file = posixpath.split(posixpath.normpath(name))
    # Both paths may contain symbolic links.
    for path, base in (
        (parent, folder),
        (parent, _real(folder)),
        (_real(parent), _real(folder)),
    ):
        if f"{path}/".startswith(f"{base}/"):
            return f"{path}/{file}"[len(base) + 1 :]
    return None


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder).rstrip("/")


def with_slashes(path: str) -> str:
    """Returns a path with Windows' backslashes replaced by slashes."""
    return path.replace("\\", "/")


def locate(
    splits: dict[str, list[ListedPhoto]], root: epath.Path
) -> dict[str, list[Photo]]:
    """Returns the paths of the photos of each split.

    Raises:
      InputError: if two listed photos are the same file.
    """
    finder = _Finder(source_folder.Listing(root))
    located = {
        name: [finder.find(photo) for photo in listed]
        for name, listed in splits.items()
    }
    _check_distinct(located, root)
    return located


def _check_distinct(splits: dict[str, list[Photo]], root: epath.Path) -> None:
    found: dict[str, str] = {}
    for listed in splits.values():
        for photo in listed:
            if photo.status is None:
                continue
            first = found.setdefault(photo.path, photo.image_id)
            if first != photo.image_id:
                raise InputError(
                    f"{printable(root / photo.path)}: is listed as {excerpt(first)} "
                    f"and as {excerpt(photo.image_id)}; expected one name per photo"
                )


class _Finder:
    """Finds the files of listed photos below a root."""

    def __init__(self, listing: source_folder.Listing):
        self._listing = listing
        self._photo_folders: list[str] | None = None

    def find(self, photo: ListedPhoto) -> Photo:
        for found in self._attempts(photo):
            if len(found) == 1:
                path = found[0]
                status = self._listing.find(path)
                return Photo(photo.image_id, photo.captions, path, status)
            if found:
                reason = _several(found)
                break
        else:
            reason = "it is absent"
        path = photo.places[0]
        return Photo(photo.image_id, photo.captions, path, None, reason)

    def _attempts(self, photo: ListedPhoto):
        """Yields the matching files of each search, the strictest search first."""
        places = photo.places
        exact = [path for path in places if self._listing.find(path) is not None]
        # A backslash may be part of a file name; then several matches are ambiguous.
        yield exact if any("\\" in path for path in exact) else exact[:1]
        elsewhere = [
            f"{folder}/{path}" for folder in self._folders() for path in places
        ]
        yield _distinct(p for p in elsewhere if self._listing.find(p) is not None)
        for key in (_composed, _folded):
            yield _distinct(
                match
                for path in (*places, *elsewhere)
                for match in self._listing.matches(path, key)
            )

    def _folders(self) -> list[str]:
        """Returns the folders that usually hold photos, one or two levels deep."""
        if self._photo_folders is None:
            first = self._usual("")
            nested = [
                f"{folder}/{name}" for folder in first for name in self._usual(folder)
            ]
            self._photo_folders = first + nested
        return self._photo_folders

    def _usual(self, folder: str) -> list[str]:
        names = self._listing.folders(folder)
        return [name for name in names if _PHOTO_FOLDER.fullmatch(name)]


def _distinct(paths) -> list[str]:
    return list(dict.fromkeys(paths))


def _several(paths: list[str]) -> str:
    shown = ", ".join(printable(path, 60) for path in paths[:_SHOWN])
    more = len(paths) - _SHOWN
    return f"{len(paths)} files match it: {shown}{' and more' if more > 0 else ''}"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    decomposed = unicodedata.normalize("NFD", name)
    return unicodedata.normalize("NFC", decomposed.casefold())
