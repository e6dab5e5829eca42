"""Atomic writes, locks and paths of files."""

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from vse_jax import storage
from vse_jax.errors import InputError, reporting_writes

logger = logging.getLogger(__name__)

UNFINISHED = storage.UNFINISHED
_OPEN_FILES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


@contextlib.contextmanager
def unfinished(path: epath.Path, *, shared: bool = False) -> Iterator[epath.Path]:
    """Yields a path to write to, which is renamed to `path` if the body succeeds.

    Args:
      path: of the file.
      shared: whether several processes may write the file at the same time. Each then
        writes a file of its own. Otherwise a file that a killed process left is
        overwritten.
    """
    own = f".{uuid.uuid4().hex[:8]}" if shared else ""
    other = path.parent / f"{UNFINISHED}{path.name}{own}"
    try:
        yield other
        other.replace(path)
    except BaseException:
        if shared:
            other.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def unfinished_local(path: epath.Path) -> Iterator[epath.Path]:
    """Like `unfinished`, for writers of local files only, such as ArrayRecord's."""
    if is_local(path):
        with unfinished(path) as other:
            yield other
        return
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder) / path.name
        yield local
        with storage.as_os_errors():
            storage.copy_file(local, path, local.stat().length)


@contextlib.contextmanager
def sole_writer(folder: epath.Path) -> Iterator[None]:
    """Creates a folder and, on a local disk, locks it; waits for other writers."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_local(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: epath.Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("waiting for another process that writes to %s", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked: %s", folder, error)


def check_output(output: str) -> None:
    """Reports a file that cannot be written, before minutes of work for its content.

    Args:
      output: path of a file; "" for none.

    Raises:
      InputError: if it is a folder or a device.
      TrainingError: if it cannot be written.
    """
    if not output:
        return
    path = epath.Path(output).expanduser()
    if path.is_dir():
        raise InputError(f"--output is {output!r}, which is a folder; name a file")
    if is_local(path) and path.exists() and not os.path.isfile(path):
        raise InputError(
            f"--output is {output!r}, which is no regular file; name another one"
        )
    with reporting_writes(output):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f"{UNFINISHED}{path.name}"
        probe.write_text("")
        probe.unlink()


def absolute(path: str) -> str:
    """Returns a path that is valid in any current directory; "" stays "".

    All ways to write a path give the same one, except with symbolic links.
    """
    if not is_local(path):
        return re.sub("(?<=[^:/])/+$", "", path)
    if not path:
        return path
    return os.path.abspath(os.path.expanduser(path))


def is_local(path: str | os.PathLike) -> bool:
    """Returns whether the path is local rather than on an object store (`gs://`)."""
    return "://" not in os.fspath(path)


def open_binary(path: epath.Path) -> BinaryIO:
    """Opens a file to read; unlike remote files of epath, its lines can be limited.

    Raises:
      OSError: if it cannot be opened, or is no regular file.
    """
    check_regular(path)
    file = path.open("rb")
    return file if is_local(path) else io.BufferedReader(file, 2**20)


def read_bytes(path: epath.Path) -> bytes:
    """Returns the content of a file.

    Raises:
      OSError: if it cannot be read, or is no regular file.
    """
    check_regular(path)
    return path.read_bytes()


def check_regular(path: epath.Path) -> None:
    """Checks that a path is one of a file or a folder: no pipe, device or socket.

    A pipe that nothing writes to blocks whoever opens it, and some devices never end.
    What the shell has opened, such as `<(command)`, is allowed.

    Raises:
      OSError: if it is not, or if there is nothing.
    """
    if not is_local(path) or os.fspath(path).startswith(_OPEN_FILES):
        return
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "its name has a zero byte (NUL)", os.fspath(path))
    _check_kind(path, os.stat(path).st_mode)


def _check_kind(path, mode):
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
        kind = "a socket" if stat.S_ISSOCK(mode) else kind
        reason = f"it is {kind}; expected a regular file"
        raise OSError(errno.EINVAL, reason, os.fspath(path))


def size_and_time(path: epath.Path) -> storage.SizeAndTime:
    """Returns the size of a file in bytes and its modification time in nanoseconds.

    If the file is remote, a number that grows with each write replaces the time.

    Raises:
      OSError: if there is no such file, or if it is no regular file.
    """
    if not is_local(path):
        return storage.size_and_time(path)
    status = os.stat(path)
    _check_kind(path, status.st_mode)
    return [status.st_size, status.st_mtime_ns]


def sizes_and_times(paths: list[epath.Path]) -> list[storage.SizeAndTime]:
    """Returns `size_and_time` of several files; remote folders are listed once.

    Raises:
      OSError: if one of the files does not exist, or is no regular file.
    """
    folders = {path.parent for path in paths if not is_local(path)}
    listed = {folder: storage.list_folder(folder)[0] for folder in folders}
    try:
        return [
            size_and_time(path) if is_local(path) else listed[path.parent][path.name]
            for path in paths
        ]
    except KeyError as error:
        raise FileNotFoundError(f"{error.args[0]} does not exist") from None


def upload_folder(source: epath.Path, target: epath.Path) -> None:
    """Uploads the files of a folder, JSON last, since it makes a folder a dataset.

    Raises:
      OSError: if a file cannot be uploaded.
    """
    target.mkdir(parents=True, exist_ok=True)
    sizes = {path.name: path.stat().length for path in source.iterdir()}
    logger.info("uploading %.2f GB to %s", sum(sizes.values()) / 1e9, target)
    for is_json in (False, True):
        some = {n: size for n, size in sizes.items() if n.endswith(".json") == is_json}
        storage.transfer("uploading", source, target, some)


def move_folder(source: epath.Path, target: epath.Path) -> None:
    """Moves a folder, and creates the one above the target.

    Raises:
      OSError: if it cannot be moved.
    """
    if is_local(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    # An object store has no empty folder to move it to, which etils requires.
    with storage.as_os_errors():
        system = storage.file_system(source)
        system.mv(os.fspath(source), os.fspath(target), recursive=True)


@contextlib.contextmanager
def reporting_array_record() -> Iterator[None]:
    """Converts write errors of ArrayRecord, such as a full disk, to OSError.

    ArrayRecord raises a RuntimeError that begins with the reason, such as
    `write() failed: No space left on device`.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(";")[0]
        if not re.match(r"\w+\(\) failed: ", reason):
            raise
        raise OSError(reason) from error
