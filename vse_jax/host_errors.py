"""How a host reports an error that ends the processes of all hosts."""

import re
import signal
import traceback

from vse_jax import host_links, storage
from vse_jax.errors import (
    ReportedError,
    lack_of_memory,
    one_line,
    store_errors,
)

# What JAX says of a host that does not answer.
_LOST = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|(?i:gloo|heartbeat|connection)"
)
# TensorStore says the same of an object store that does not answer, and names it.
_OF_STORE = re.compile("gs://|googleapis|CURL")


def message(error: BaseException, number: int) -> str:
    """Returns what to print; prints the stack trace of an error in the program.

    Args:
      error: what was raised.
      number: of this host.
    """
    if is_of_connection(error):
        return (
            f"host {number} lost its connection to another host "
            f"({one_line(error)}); start the same command again on every host"
        )
    if isinstance(error, ReportedError):
        return str(error)
    if isinstance(error, store_errors()):
        return f"object storage: {storage.reason(error)}"
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted by Ctrl-C on host {number}: completed work is kept"
    if isinstance(error, BrokenPipeError):
        return f"the output of host {number} is closed: completed work is kept"
    if reason := lack_of_memory(error):
        return f"host {number}: {reason}"
    traceback.print_exception(error)
    return f"host {number} failed ({one_line(error)}); see its traceback"


def exit_code(error: BaseException) -> int:
    """Returns the exit code of all hosts, which is that of a single host."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    return getattr(error, "exit_code", host_links.FAILURE)


def is_of_connection(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is due to another host.

    JAX raises errors of its runtime as several types.
    """
    while error is not None:
        is_known = isinstance(error, (ReportedError, OSError, *store_errors()))
        is_known = is_known or _OF_STORE.search(str(error))
        if not is_known and _LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
