"""Errors that are told to the user in one line instead of a stack trace."""

import contextlib
import errno
import os
from collections.abc import Iterator


class ReportedError(Exception):
    """A failure that the user can mend.

    `main.py` prints its message on standard error behind `error: ` and exits with 2.
    The message is one line: it names the file or option, the record, what was expected
    and how to mend it.
    """


class InputError(ReportedError):
    """A file, a record or an option that cannot be used as it is."""


class TrainingError(ReportedError):
    """A run that cannot go on: the loss is not finite, a checkpoint cannot be saved."""


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its type if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # What a long message is about stands at its beginning, the reason at its end.
    line = lines[0]
    return line if len(line) <= 300 else f"{line[:140]} ... {line[-150:]}"


def unreadable(path: str | os.PathLike, error: OSError) -> InputError:
    """Returns the error that says why the system does not let us read `path`."""
    return InputError(f"{path}: cannot be read: {error.strerror or one_line(error)}")


def write_advice(error: BaseException) -> str:
    """What to do about an error of writing a file: by its reason, not by guess."""
    reason = f"{getattr(error, 'errno', None) or ''} {error}".lower()
    if _names(reason, _FULL_DISK, _FULL_DISK_WORDS):
        return "free some space and start again"
    if _names(reason, _NOT_PERMITTED, _NOT_PERMITTED_WORDS):
        return "correct its permissions, or choose another folder, and start again"
    return "check the file system and start again"


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_DISK_WORDS = ("no space left", "quota exceeded", "resource_exhausted")
_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_PERMITTED_WORDS = ("permission", "read-only", "not permitted")


def _names(reason, numbers, words):
    number = reason.split(" ")[0]
    named = number.isdecimal() and int(number) in numbers
    return named or any(word in reason for word in words)


@contextlib.contextmanager
def reporting_writes(directory: str) -> Iterator[None]:
    """Turns the error of a file that cannot be written into one that is reported.

    A pipe that its reader has closed is no such error.

    Raises:
      TrainingError: for a full disk or a missing permission, for instance.
    """
    import tensorflow as tf  # takes seconds, which a mistyped option need not wait for

    try:
        yield
    except (BrokenPipeError, ConnectionError):
        raise
    except (OSError, tf.errors.OpError) as error:
        raise TrainingError(
            f"cannot write to {directory} ({one_line(error)}); {write_advice(error)}"
        ) from error
