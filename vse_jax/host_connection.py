"""The connection of the processes of several hosts, which fail together.

A host that fails leaves the others waiting, in a collective or at a barrier. So the
message of a failure is published in JAX's coordination service, which every host
watches. The primary host prints it, and all hosts exit.
"""

import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
import ml_collections

# Its key-value store has no public name.
from jax._src import distributed

from vse_jax.errors import InputError, ReportedError, one_line

logger = logging.getLogger(__name__)

# Options of one start of one process; they are not part of a run.
CONNECTION_DEFAULTS = {
    "distributed": False,
    "coordinator": "",
    "num_processes": 0,
    "process_id": -1,
}
CONNECTION_OPTIONS = tuple(CONNECTION_DEFAULTS)
CONNECTION_TIMEOUT = 300  # seconds within which all hosts must have started
EXIT_CODE = 2
# What JAX says of a host that does not answer.
_LOST = re.compile(
    "UNAVAILABLE|DEADLINE|ABORTED|CANCELLED|gloo|heartbeat|connection", re.IGNORECASE
)
_FAILURE = "vse_jax/failure"
_SEEN = "vse_jax/failure_seen"  # a folder: which hosts have read the failure
_POLL_SECONDS = 1.0
_LINGER_SECONDS = 10.0  # at most; the primary host's exit ends the service
_failing = threading.Lock()  # held from the first failure to the end of the process


def check_options(config: ml_collections.ConfigDict) -> None:
    """Checks the options that connect processes.

    Raises:
      InputError: naming the option and its valid values.
    """
    address, count, number = (config[name] for name in CONNECTION_OPTIONS[1:])
    if not address:
        if count or number != -1:
            raise InputError(
                "config.num_processes and config.process_id need config.coordinator, "
                "the address host:port of process 0; set all three or none"
            )
        return
    port = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.%\w]+\]):(\d{1,5})", address)
    if not port or not 1 <= int(port[1]) <= 65535:
        raise InputError(
            f"config.coordinator is {address!r}, expected host:port of process 0, such "
            "as 10.0.0.1:8476"
        )
    if count < 1:
        raise InputError(
            f"config.num_processes is {count}, expected the number of processes, at "
            "least 1, with config.coordinator"
        )
    if not 0 <= number < count:
        raise InputError(
            f"config.process_id is {number}, expected 0 to {count - 1}, another one in "
            f"each of the {count} processes"
        )


def connect(config: ml_collections.ConfigDict, *, preemptible: bool) -> None:
    """Connects the processes, if the configuration says that there are several.

    Args:
      config: `CONNECTION_OPTIONS` are used.
      preemptible: whether JAX notes SIGTERM, instead of the process ending.

    Raises:
      InputError: if the processes cannot be connected.
    """
    if not config.distributed and not config.coordinator:
        return
    jax.config.update("jax_enable_preemption_service", preemptible)
    given = {}
    if config.coordinator:
        given = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
        }
        _check_address(config.coordinator, config.process_id)
    # JAX would abort the process with a stack trace at its own timeout.
    timer = threading.Timer(CONNECTION_TIMEOUT, _give_up, [config])
    timer.start()
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=2 * CONNECTION_TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        raise _not_connected(config, one_line(error)) from error
    finally:
        timer.cancel()
    threading.Thread(target=_watch, daemon=True).start()


def _check_address(address, process_id):
    """Finds mistakes on which JAX would abort the process.

    Raises:
      InputError: if the host has no address, or process 0 cannot use the port.
    """
    host, port = address.rsplit(":", 1)
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise InputError(
            f"config.coordinator is {address!r}, but {host} has no address "
            f"({error.strerror}); set it to the address host:port of process 0"
        ) from None
    if process_id == 0:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        try:
            with socket.socket(family) as free:
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(("", int(port)))
        except OSError as error:
            raise InputError(
                f"config.coordinator is {address!r}, but process 0 cannot use its port "
                f"({error.strerror}); choose another port"
            ) from None


def _give_up(config):
    seconds = f"not all of them answered within {CONNECTION_TIMEOUT} s"
    print(f"error: {_not_connected(config, seconds)}", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)


def _not_connected(config, reason):
    if config.coordinator:
        return InputError(
            f"config.coordinator is {config.coordinator!r}, but its "
            f"{config.num_processes} processes cannot be connected ({reason}); start "
            "all of them at about the same time, and check the address and its port"
        )
    return InputError(
        f"config.distributed is True, but the hosts cannot be connected ({reason}); "
        "set config.coordinator, config.num_processes and config.process_id, or leave "
        "it False on a single host"
    )


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Ends the processes of all hosts if the body raises on this one.

    With several hosts, the primary host prints the message of a `ReportedError`, and
    all hosts exit with 2. With a single host the error is raised as usual.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _number_of_hosts() in (None, 1):
            raise
        _fail(_message(error))


def _message(error):
    if isinstance(error, ReportedError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"Ctrl-C on host {_number()}: completed work is kept"
    if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
        return (
            f"the connection to another host was lost ({one_line(error)}); start the "
            "same command again on every host"
        )
    traceback.print_exception(error)
    return f"host {_number()} failed ({one_line(error)}); see its traceback"


def _fail(message):
    """Publishes a failure and ends the process."""
    published = _publish(message)
    if published and not _is_primary():
        time.sleep(2 * _POLL_SECONDS)  # the primary host prints it, and ends this one
    _end(message, print_it=_is_primary() or not published)


def _publish(message) -> bool:
    """Returns whether the other hosts can read a failure, of this host or another."""
    try:
        distributed.global_state.client.key_value_set(_FAILURE, message)
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" in str(error)
    return True


def _watch():
    """Ends this process when a host has published a failure."""
    while True:
        time.sleep(_POLL_SECONDS)
        client = distributed.global_state.client
        if client is None:  # shut down
            return
        try:
            message = client.key_value_try_get(_FAILURE)
        except jax.errors.JaxRuntimeError:  # there is none
            continue
        _end(message, print_it=_is_primary())


def _end(message, *, print_it):
    if not _failing.acquire(blocking=False):
        threading.Event().wait()  # another thread is ending the process
    if print_it:
        print(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _wait_until_seen()
    # Not `sys.exit`: JAX would wait there for hosts that cannot come.
    os._exit(EXIT_CODE)


def _wait_until_seen():
    """Tells that this host knows of the failure; the primary host waits for all."""
    client = distributed.global_state.client
    client.key_value_set(f"{_SEEN}/{_number()}", "")
    end = time.monotonic() + _LINGER_SECONDS
    while _is_primary() and time.monotonic() < end:
        if (
            len(client.key_value_dir_get(_SEEN))
            == distributed.global_state.num_processes
        ):
            return
        time.sleep(0.1)


def _is_primary():
    return _number() == 0


def _number_of_hosts():
    return distributed.global_state.num_processes


def _number():
    return distributed.global_state.process_id
