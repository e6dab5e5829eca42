"""Local copies of the files of galleries that are on an object store."""

import hashlib
import logging
from collections.abc import Iterable

from etils import epath

from vse_jax import files, storage
from vse_jax.errors import InputError, ReportedError, one_line, unreadable, write_advice
from vse_jax.gallery.manifest import ENCODE_AGAIN, File

logger = logging.getLogger(__name__)

_FEW_BYTES = 2**28


def local_path(folder: epath.Path, file: File, copies: str = "") -> epath.Path:
    """Returns the path of a local file, or copies a remote one and returns the copy.

    Copies are named by their digest, so that a copy is used as long as the file has the
    same content.

    Args:
      folder: folder of the gallery.
      file: one of its files.
      copies: local folder for copies; "" for `~/.cache/vse_jax`.

    Raises:
      InputError: if the file cannot be read or is damaged, or if the disk is too small.
      ReportedError: if it cannot be copied.
    """
    if files.is_local(folder):
        return folder / file.name
    from vse_jax.data import local_copy  # imports TFDS, which takes seconds

    local = epath.Path(files.absolute(copies or local_copy.DEFAULT)) / "galleries"
    name, suffix = file.sha256[:32], epath.Path(file.name).suffix
    copy = local / f"{name}{suffix}"
    if _is_complete(copy, file):
        return copy
    try:
        with files.sole_writer(local):
            if not _is_complete(copy, file):
                local_copy.check_space(f"{folder}", local, {file.name: file.bytes})
                logger.info("copying %s to %s", folder / file.name, local)
                _copy(folder / file.name, copy, file)
    except OSError as error:
        raise ReportedError(
            f"{folder / file.name} cannot be copied to {local} "
            f"({error.strerror or one_line(error)}); {write_advice(error)}, or set "
            "config.data.local_copy to another folder"
        ) from error
    return copy


def _is_complete(copy, file):
    return copy.exists() and copy.stat().length == file.bytes


def _copy(source, copy, file):
    with files.unfinished(copy) as unfinished:
        with storage.as_os_errors():
            storage.copy_file(source, unfinished, file.bytes)
        if digest_of(unfinished) != file.sha256:
            raise damaged(source)


def check_size(folder: epath.Path, file: File) -> None:
    """Checks that a file exists and has its size.

    Raises:
      InputError: if not; names the file.
    """
    path = folder / file.name
    try:
        size, _ = files.size_and_time(path)
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; {ENCODE_AGAIN} to replace it") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if size != file.bytes:
        raise damaged(path)


def are_few(folder: epath.Path, some: Iterable[File]) -> bool:
    """Returns whether files are checked as a whole whenever they are opened.

    Remote files are checked when they are copied.

    Args:
      folder: folder of the gallery.
      some: some of its files.
    """
    return files.is_local(folder) and sum(file.bytes for file in some) <= _FEW_BYTES


def check_digest(folder: epath.Path, file: File) -> None:
    """Reads a file and checks its digest.

    Raises:
      InputError: if it is damaged; names the file.
    """
    path = folder / file.name
    try:
        digest = digest_of(path)
    except OSError as error:
        raise unreadable(path, error) from None
    if digest != file.sha256:
        raise damaged(path)


def digest_of(path: epath.Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: epath.Path) -> InputError:
    """Returns an error that says that a file of a gallery is damaged."""
    return InputError(f"{path}: is damaged; delete this file and {ENCODE_AGAIN}")
