"""Errors that are reported in one line instead of a stack trace."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vse_jax.excerpts import short


class ReportedError(Exception):
    """A failure that the user can fix.

    `main.py` prints `error: ` and the message to standard error and exits with 2. The
    message is one line that names the file or option, the record, what was expected
    and how to fix it.

    Attributes:
      exit_code: exit code of the program.
    """

    exit_code = 2


class InputError(ReportedError):
    """An invalid file, record or option."""


class TrainingError(ReportedError):
    """A run that cannot continue, such as one whose loss is not finite."""


class StoppedError(ReportedError):
    """A signal that ends the processes of all hosts, before there is a step to save."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def one_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type without a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # A long message names its subject at the beginning and the reason at the end.
    line = lines[0]
    return line if len(line) <= 300 else f"{line[:140]} ... {line[-150:]}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a clause for each name whose value differs or is absent on one side."""
    return [
        f"{name} was {short(before.get(name))} and is now {short(now.get(name))}"
        for name in {**now, **before}
        if now.get(name) != before.get(name)
    ]


def unreadable(path: str | os.PathLike, error: OSError) -> InputError:
    """Returns an error that says why `path` cannot be read."""
    reason = error.strerror or one_line(error)
    if isinstance(error, FileNotFoundError):  # of an object store it names only the key
        reason = os.strerror(errno.ENOENT)
    return InputError(f"{path}: cannot be read: {reason}")


def store_errors() -> tuple[type[Exception], ...]:
    """Returns the types of the errors of object stores that are not OSError."""
    if sys.modules.get("gcsfs") is None:
        return ()
    import aiohttp
    import gcsfs.retry
    import google.api_core.exceptions
    import google.auth.exceptions

    return (
        gcsfs.retry.HttpError,
        aiohttp.ClientError,
        google.api_core.exceptions.GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
    )


def is_lack_of_device_memory(error: BaseException) -> bool:
    """Returns whether JAX, if it is imported, could not allocate an array."""
    jax = sys.modules.get("jax")
    return (
        jax is not None
        and isinstance(error, jax.errors.JaxRuntimeError)
        and "RESOURCE_EXHAUSTED" in str(error)
    )


def lack_of_memory(error: BaseException) -> str:
    """Returns the line for a lack of memory that has no better report, or ""."""
    if not is_lack_of_device_memory(error) and not isinstance(error, MemoryError):
        return ""
    return (
        f"out of memory ({one_line(error)}); use smaller batches (config.batch_size, "
        "config.evaluation_batch_size), a smaller model, or a machine with more memory"
    )


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_DISK_WORDS = ("no space left", "quota exceeded", "resource_exhausted")
_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_PERMITTED_WORDS = ("permission", "read-only", "not permitted")


def write_advice(error: BaseException) -> str:
    """Returns advice for a failed write, which depends on the reason."""
    number, text = getattr(error, "errno", None), str(error).lower()
    if number in _FULL_DISK or any(word in text for word in _FULL_DISK_WORDS):
        return "free some space and start again"
    if number in _NOT_PERMITTED or any(word in text for word in _NOT_PERMITTED_WORDS):
        return "correct its permissions, or choose another folder, and start again"
    return "check the file system and start again"


@contextlib.contextmanager
def reporting_writes(directory: str) -> Iterator[None]:
    """Converts errors of writing files to a reported error.

    Errors of pipes and connections are raised unchanged.

    Raises:
      TrainingError: if a file cannot be written, such as on a full disk.
    """
    try:
        yield
    except (BrokenPipeError, ConnectionError):
        raise
    except Exception as error:
        if not isinstance(error, (OSError, *_tensorflow_errors(), *store_errors())):
            raise
        raise TrainingError(
            f"cannot write to {directory} ({one_line(error)}); {write_advice(error)}"
        ) from error


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    """Returns the type of TensorFlow's errors, without importing it."""
    tensorflow = sys.modules.get("tensorflow")
    return () if tensorflow is None else (tensorflow.errors.OpError,)
