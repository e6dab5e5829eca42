"""Files of object stores, such as `gs://bucket/folder`.

`etils.epath` reads and writes them. This module adds what it lacks: one request for the
sizes and times of a folder, downloads in large parts, and errors in one line.
"""

import concurrent.futures
import contextlib
import datetime
import functools
import logging
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping

import fsspec
from etils import epath

from vse_jax.errors import InputError, one_line, store_errors
from vse_jax.progress import Progress

SizeAndTime = list[int]  # bytes; nanoseconds, or a number that grows with each write
UNFINISHED = "incomplete."  # prefix of the name of a file that is being written
_AT_ONCE = 4  # files that are transferred at the same time
# They log stack traces of errors that are also raised.
for _name in ("gcsfs", "google.auth"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

_CONNECTION_SECONDS = 10.0
_CREDENTIALS = (
    "run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS; on Google Cloud give the machine the scope "
    "cloud-platform"
)


def file_system(path: str | os.PathLike) -> fsspec.AbstractFileSystem:
    """Returns the file system of a remote path.

    Raises:
      InputError: if the path is not `gs://`, or if gcsfs is not installed.
    """
    _check_installed(os.fspath(path))
    return fsspec.filesystem("gs")


def _check_installed(path: str) -> None:
    if not path.startswith("gs://"):
        raise InputError(f"{path}: expected a local path or gs://bucket/folder")
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError:
        raise InputError(
            f"{path}: gs:// paths need gcsfs, which is not installed; pip install gcsfs"
        ) from None


def size_and_time(path: epath.Path) -> SizeAndTime:
    """Returns the size of a remote file and the number of its version.

    Raises:
      OSError: if there is no such file.
    """
    return _status(file_system(path).info(os.fspath(path)))


def _status(info: dict) -> SizeAndTime:
    generation = info.get("generation")  # of Google's; unlike the time, always unique
    if generation is not None:
        return [int(info["size"]), int(generation)]
    time = info.get("mtime") or info.get("LastModified") or 0
    if isinstance(time, datetime.datetime):
        time = time.timestamp()
    return [int(info["size"]), int(time * 1e9)]


def list_folder(folder: epath.Path) -> tuple[dict[str, SizeAndTime], frozenset[str]]:
    """Returns the sizes and times of a folder's files by name, and its folders' names.

    Raises:
      OSError: if there is no such folder.
    """
    statuses, folders = {}, set()
    own = os.fspath(folder).rpartition("://")[2].rstrip("/")
    for info in file_system(folder).ls(os.fspath(folder), detail=True):
        path = info["name"].rstrip("/")
        if path == own:  # a marker that the folder exists
            continue
        name = path.rpartition("/")[2]
        if info["type"] == "directory":
            folders.add(name)
        else:
            statuses[name] = _status(info)
    return statuses, frozenset(folders)


def transfer(
    what: str, source: epath.Path, target: epath.Path, sizes: Mapping[str, int]
) -> None:
    """Copies files between a local folder and an object store, several at a time.

    Args:
      what: name of the operation for its progress, such as `copying train`.
      source: folder of the files.
      target: existing folder for the files. An object appears when it is complete; a
        local file does so because it has another name until then.
      sizes: bytes of each file, by name.

    Raises:
      OSError: if a file cannot be copied or gets another size.
    """

    def copy(name: str) -> int:
        with as_os_errors():
            copy_file(source / name, target / name, sizes[name])
        return sizes[name]

    megabytes = sum(sizes.values()) // 2**20
    with (
        concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads,
        Progress(what, megabytes, "MiB") as progress,
    ):
        done = 0
        tasks = [threads.submit(copy, name) for name in sizes]
        try:
            for task in concurrent.futures.as_completed(tasks):
                before, done = done, done + task.result()
                progress.add(done // 2**20 - before // 2**20)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def copy_file(source: epath.Path, target: epath.Path, size: int) -> None:
    """Copies a file from or to an object store; `target` is complete or absent.

    Args:
      source: path of the file.
      target: path of the copy.
      size: expected size in bytes.

    Raises:
      OSError: if the file has another size.
    """
    if "://" in os.fspath(target):
        file_system(target).put_file(os.fspath(source), os.fspath(target))
        return
    unfinished = target.parent / f"{UNFINISHED}{target.name}"
    # One request for the whole file.
    file_system(source).get_file(
        os.fspath(source), os.fspath(unfinished), concurrency=1
    )
    found = os.path.getsize(unfinished)
    if found != size:
        raise OSError(f"{source} has {found} bytes instead of {size}")
    unfinished.replace(target)


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Converts the errors of object stores to OSError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, store_errors()):
            raise OSError(reason(error)) from error
        raise


def reason(error: Exception) -> str:
    """Returns why a request failed, in one line."""
    code, text = getattr(error, "code", None), one_line(error)
    is_credentials = "google.auth" in type(error).__module__
    if code in (401, "401") or is_credentials or "Anonymous caller" in text:
        return f"no valid credentials ({text}); {_CREDENTIALS}"
    if str(error).startswith("Forbidden"):
        details = " ".join(str(error).splitlines()[1:]) or "403"
        return f"permission denied: {details[:300]}"
    return text


def check_reachable(paths: Iterable[tuple[str, str]]) -> None:
    """Checks that the buckets of remote paths exist and can be listed.

    Args:
      paths: name of the option and value, for each path. Local paths are ignored.

    Raises:
      InputError: if a bucket does not exist, the network is down, or credentials or
        permissions are missing. Names the option.
    """
    for option, path in paths:
        scheme, separator, rest = path.partition("://")
        if not separator:
            continue
        where = f"{option} is {path}"
        is_valid = re.fullmatch(r"[a-z0-9][a-z0-9._-]+[a-z0-9](/.*)?", rest)
        if scheme != "gs" or not is_valid:
            raise InputError(f"{where}; expected a local path or gs://bucket/folder")
        _check_installed(path)
        _check_bucket(where, rest.partition("/")[0])


def _check_bucket(where: str, bucket: str) -> None:
    try:
        _list_bucket(bucket)
    except FileNotFoundError:
        raise InputError(
            f"{where}, but there is no bucket {bucket!r}; create it, or correct the "
            "name"
        ) from None
    except (OSError, *store_errors()) as error:
        raise InputError(f"{where}: {reason(error)}") from error


@functools.cache
def _list_bucket(bucket: str) -> None:
    _connect()
    system = file_system(f"gs://{bucket}")
    system.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)


def _connect() -> None:
    """Raises OSError if the store cannot be reached; gcsfs tries for half a minute."""
    url = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    url = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if urllib.request.getproxies().get(url.scheme):
        return
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname, port), _CONNECTION_SECONDS).close()
    except OSError as error:
        raise OSError(
            f"{url.hostname} cannot be reached ({error.strerror or one_line(error)}); "
            "check the network"
        ) from error
