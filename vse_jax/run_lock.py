"""A lock that lets one run at a time use a workdir, and that names its owner.

On a file system with locks, the operating system holds the lock and releases it when
the process ends, even if it is killed. On an object store the lock is a lease, a file
that its owner renews. Another process takes over a lease that has not been renewed for
two minutes.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from etils import epath

from vse_jax import files, host_connection
from vse_jax.errors import InputError, one_line, store_errors

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
STALE_SECONDS = 120.0  # a lease that was not renewed for this long is free
_RENEW_SECONDS = 30.0
_POLL_SECONDS = 5.0


@contextlib.contextmanager
def sole_run(workdir: str) -> Iterator[None]:
    """Locks a workdir against other runs while the body runs.

    With several hosts, only the primary host calls it.

    Args:
      workdir: folder of the run; created if it does not exist.

    Raises:
      InputError: if another process, which the message names, holds the workdir, or if
        the workdir cannot be created or written.
    """
    directory = epath.Path(workdir).expanduser()
    with _reporting(directory):
        is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(directory):
            yield
    finally:
        if is_new and files.is_local(directory):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(directory)


@contextlib.contextmanager
def _locked(directory: epath.Path) -> Iterator[None]:
    path = directory / LOCK_FILE
    with _reporting(directory):
        descriptor = _open_locked(path) if files.is_local(directory) else None
    if descriptor is None:
        with _lease(path.with_suffix(".lease")):
            yield
        return
    try:
        with _reporting(directory):  # the disk may be full
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_owner()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked
        os.close(descriptor)


@contextlib.contextmanager
def _reporting(directory: epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{directory} cannot be used for checkpoints "
            f"({error.strerror or one_line(error)}); choose another --workdir"
        ) from error


def _open_locked(path: epath.Path) -> int | None:
    """Opens and locks the file; returns None if the file system has no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(descriptor, path):
                return descriptor
            os.close(descriptor)  # its owner removed it in the meantime
        except BlockingIOError:
            owner = _parse(os.read(descriptor, 4096))
            os.close(descriptor)
            raise _in_use(path, owner) from None
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            logger.warning("%s cannot be locked (%s): using a lease", path, error)
            return None


def _is_file(descriptor: int, path: epath.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _owner() -> dict:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _parse(content: bytes) -> dict:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _in_use(path: epath.Path, owner: dict) -> InputError:
    return InputError(
        f"{path.parent} is in use by another run: process {owner.get('pid', '?')} on "
        f"{owner.get('host', 'an unknown host')} since {owner.get('since', '?')}; wait "
        "for it, stop it, or choose another --workdir"
    )


@contextlib.contextmanager
def _lease(path: epath.Path) -> Iterator[None]:
    """Holds a lease; first waits to see whether an existing one is abandoned."""
    token = uuid.uuid4().hex
    with _reporting(path.parent):
        _acquire(path, token)
    stop = threading.Event()
    renewal = threading.Thread(
        target=_renew, args=(path, token, stop), name="lease", daemon=True
    )
    renewal.start()
    try:
        yield
    finally:
        stop.set()
        renewal.join()
        with contextlib.suppress(OSError, *store_errors()):
            if (_read(path) or {}).get("token") == token:
                path.unlink()


def _acquire(path: epath.Path, token: str) -> None:
    first = None  # the lease when first seen, and the time
    while True:
        found = _read(path)
        if found is None or _is_abandoned(found):
            break
        key = found.get("token"), found.get("renewals")
        if first is None:
            first = key, time.monotonic()
            logger.info("%s exists: waiting to see whether its run is alive", path)
        elif key != first[0]:
            raise _in_use(path, found)
        elif time.monotonic() - first[1] > STALE_SECONDS:
            logger.warning("%s was not renewed: taking it over", path)
            break
        time.sleep(_POLL_SECONDS)
    _write(path, token, 0)
    # Two processes may write at the same time; the later one wins.
    time.sleep(min(1.0, _POLL_SECONDS))
    found = _read(path) or {}
    if found.get("token") != token:
        raise _in_use(path, found)


def _is_abandoned(owner: dict) -> bool:
    """Returns whether the lease belongs to a process of this host that has ended."""
    if owner.get("host") != socket.gethostname() or owner.get("boot") != _boot():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError):
        return False
    return False


def _boot() -> str:
    """Returns an ID of this boot of the machine, since hosts may share a name."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _renew(path: epath.Path, token: str, stop: threading.Event) -> None:
    renewals = 0
    while not stop.wait(_RENEW_SECONDS):
        renewals += 1
        try:
            owner = _read(path) or {}
            if owner.get("token", token) != token:
                _end_this_run(path, owner)
            _write(path, token, renewals)
        except Exception as error:  # the next renewal may succeed
            logger.warning("%s cannot be renewed (%s)", path, one_line(error))


def _end_this_run(path: epath.Path, owner: dict) -> None:
    """Ends a run that stalled until another one took over its workdir."""
    host_connection.fail(_in_use(path, owner))


def _read(path: epath.Path) -> dict | None:
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None


def _write(path: epath.Path, token: str, renewals: int) -> None:
    owner = {**_owner(), "boot": _boot(), "token": token, "renewals": renewals}
    if not files.is_local(path):  # an object store replaces whole files
        path.write_text(json.dumps(owner))
        return
    # Otherwise another process could read a file that is still empty.
    with files.unfinished(path, shared=True) as other:
        other.write_text(json.dumps(owner))
