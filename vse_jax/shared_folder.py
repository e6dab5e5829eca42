"""Checks that a folder is the same on all hosts.

With a folder of its own, a host would not find what the primary host writes there, such
as the best checkpoint at the end of a training.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator

from etils import epath

from vse_jax import files, parallel

_SECONDS = 15.0  # in which a network file system shows a new file to other hosts
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def locked(
    lock: contextlib.AbstractContextManager, folder: epath.Path
) -> Iterator[None]:
    """Lets the primary host lock a workdir for all hosts, all of which must call it.

    Args:
      lock: entered by the primary host alone; creates the folder.
      folder: the workdir, or a folder in it.

    Raises:
      InputError: if the lock raises it, or if a host has another folder of this name.
    """
    with lock if parallel.is_primary_host() else contextlib.nullcontext():
        check("--workdir", folder)
        yield


def check(option: str, folder: epath.Path, seconds: float = _SECONDS) -> None:
    """Checks that a folder is the same on all hosts, all of which must call it.

    Args:
      option: option that names the folder, for the message.
      folder: exists on the primary host, which may write there.
      seconds: time for the other hosts to see a new file.

    Raises:
      InputError: on all hosts, if a host has another folder of this name.
    """
    if parallel.is_single_host():
        return
    path = folder / f"{files.UNFINISHED}hosts"
    token = uuid.uuid4().hex
    if parallel.is_primary_host():
        path.write_text(token)
    parallel.wait_for_hosts("can look into the folder")
    if not parallel.is_primary_host():
        token = _read(path, seconds)
    try:
        parallel.check_same_on_hosts(
            f"{option} is {folder}, which",
            token,
            "name a folder that all hosts share, such as one on gs:// or on a network "
            "file system",
        )
    finally:
        if parallel.is_primary_host():
            path.unlink(missing_ok=True)


def _read(path: epath.Path, seconds: float) -> str:
    """Returns the content of a file, for which it waits; "" if there is none."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            return ""
        time.sleep(_POLL_SECONDS)
    return path.read_text()
