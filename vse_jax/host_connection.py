"""The connection of the processes of several hosts, which fail together.

A host that fails leaves the others waiting, in a collective or at a barrier. So all
hosts are linked. The primary host prints the message of a failure, or which host is
gone, and all hosts exit. If the primary host is gone, every other host says so.

A host that finds a mistake in its command line is linked to the others only to tell
them.
"""

import argparse
import contextlib
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_collections

# These have no public names.
from jax._src import clusters, compilation_cache, compiler

from vse_jax import host_errors, host_links, termination
from vse_jax.errors import InputError, StoppedError, one_line
from vse_jax.host_proxy import PROBE_SECONDS, Proxy

logger = logging.getLogger(__name__)

# Options of one start of one process; they are not part of a run.
CONNECTION_DEFAULTS = {
    "distributed": False,
    "coordinator": "",
    "num_processes": 0,
    "process_id": -1,
    "connection_timeout": 120.0,
}
CONNECTION_OPTIONS = tuple(CONNECTION_DEFAULTS)
_JAX_TIMEOUT = 300  # seconds after which JAX stops connecting linked hosts
_links = None  # to the other hosts, once they are linked
_number = 0  # of this host
_has_tried = False  # to link the hosts
_is_told = False  # this host has printed why it ends
_SECONDS_WITHOUT_NOTICE = 5.0
_failing = threading.Lock()  # held from the first failure to the end of the process


def check_options(config: ml_collections.ConfigDict) -> None:
    """Checks the options that connect processes.

    Raises:
      InputError: naming the option and its valid values.
    """
    address, count, number, timeout = (config[name] for name in CONNECTION_OPTIONS[1:])
    if not 0 < timeout < math.inf:
        raise InputError(
            f"config.connection_timeout is {timeout}; expected seconds, more than 0, "
            "and finite"
        )
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
            f"config.coordinator is {address!r}; expected host:port of process 0, such "
            "as 10.0.0.1:8476"
        )
    if count < 1:
        raise InputError(
            f"config.num_processes is {count}; expected the number of processes, at "
            "least 1, with config.coordinator"
        )
    if not 0 <= number < count:
        raise InputError(
            f"config.process_id is {number}; expected 0 to {count - 1}, another one in "
            f"each of the {count} processes"
        )


def connect(
    config: ml_collections.ConfigDict,
    *,
    preemptible: bool,
    command: Mapping[str, str] | None = None,
) -> None:
    """Connects the processes, if the configuration says that there are several.

    Args:
      config: `CONNECTION_OPTIONS` are used.
      preemptible: whether JAX notes SIGTERM once training makes steps.
      command: from `host_command.describe`, equal on all hosts; None for anything.

    Raises:
      InputError: if the processes cannot be connected, or have different commands.
    """
    if not config.distributed and not config.coordinator:
        return
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        address, count, number = _place(config)
        if count > 1:
            _link_hosts(config, address, count, number, command)
            compiler._cache_write = _write_to_cache
        _connect_jax(config, address, count, number)
        if preemptible:
            end_at_sigterm_before_steps()
    except (RuntimeError, ValueError, host_links.MissingHostError) as error:
        raise _not_connected(config, one_line(error)) from error


def tell_others(argv: Sequence[str], message: str) -> None:
    """Ends the processes of all hosts because this one has a wrong command line.

    The primary host prints the message too. The function returns if there are no other
    hosts, or if they do not start in time.

    Args:
      argv: the command line, which may be invalid. It tells where the other hosts are.
      message: what is wrong, which this host has printed.
    """
    global _is_told
    config = _options_in(argv)
    if _has_tried or not (config.distributed or config.coordinator):
        return
    _is_told = True
    notice = threading.Timer(_SECONDS_WITHOUT_NOTICE, _print_notice)
    notice.daemon = True
    notice.start()
    try:
        check_options(config)
        address, count, number = _place(config)
        if count > 1:
            _link_hosts(config, address, count, number)
    except (InputError, RuntimeError, ValueError, host_links.MissingHostError):
        return
    except KeyboardInterrupt:
        termination.exit_now(host_links.FAILURE)
    finally:
        notice.cancel()
    if isinstance(_links, host_links.HostLink):
        failure = f"host {number} stopped at its start: {message}"
        _links.report(failure, host_links.FAILURE)
    if _links is not None:
        _end("", host_links.FAILURE)


def _options_in(argv):
    """Returns the options that connect hosts, or their defaults if one is invalid."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    for name, default in CONNECTION_DEFAULTS.items():
        kind = {"type": type(default)}
        if isinstance(default, bool):
            kind = {"nargs": "?", "const": True, "type": lambda text: text == "True"}
        parser.add_argument(f"--config.{name}", dest=name, default=default, **kind)
    try:
        found = vars(parser.parse_known_args(list(argv))[0])
    except (argparse.ArgumentError, SystemExit):
        found = CONNECTION_DEFAULTS
    return ml_collections.ConfigDict(found)


def _print_notice():
    print(
        "telling the other hosts, as soon as they start; press Ctrl-C to exit now",
        file=sys.stderr,
        flush=True,
    )


def _place(config):
    """Returns the coordinator's address, the number of processes and this one's.

    Raises:
      ValueError: if JAX does not detect them.
    """
    if config.coordinator:
        return config.coordinator, config.num_processes, config.process_id
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        os.environ.get("JAX_COORDINATOR_ADDRESS"),
        num_processes=None,
        process_id=None,
        local_device_ids=None,
        cluster_detection_method=None,
        initialization_timeout=int(config.connection_timeout),
    )[:3]
    if None in found:
        raise ValueError("JAX detects no other hosts")
    return found


def _link_hosts(config, address, count, number, command=None):
    """Waits for all hosts; from now on they notice each other's death.

    Raises:
      InputError: if the address is wrong.
      MissingHostError: if some do not start.
    """
    global _links, _number, _has_tried
    _number, _has_tried = number, True
    host, port = _checked(address)
    try:
        if number == 0:
            _links = links = _listen(address, count, port, command)
            links.accept(config.connection_timeout)
        else:
            timeout = config.connection_timeout
            _links = host_links.HostLink(
                (host, port), number, count, timeout, _end, command
            )
    except host_links.HostGoneError as error:
        _end(str(error), host_links.FAILURE)


def _listen(address, count, port, command):
    try:
        return host_links.PrimaryLinks(count, port, _end, command)
    except OSError as error:
        raise InputError(
            f"config.coordinator is {address!r}, but process 0 cannot use its port "
            f"({error.strerror}); choose another port"
        ) from None


def _connect_jax(config, address, count, number):
    """Starts JAX's service on host 0, and connects to it."""
    # JAX would abort the process with a stack trace at its own timeout.
    timer = threading.Timer(_JAX_TIMEOUT, _give_up, [config])
    timer.daemon = True
    timer.start()
    try:
        reached = address if number == 0 else _proxy(address)
        jax.distributed.initialize(
            reached,
            count,
            number,
            cluster_detection_method="deactivate" if _is_alone() else None,
            initialization_timeout=2 * _JAX_TIMEOUT,
        )
    finally:
        timer.cancel()


def _is_alone():
    """Whether Slurm or Open MPI started one process on each machine, or on this one.

    It then uses all GPUs of the machine. JAX would give it the first one only, as if
    there were a process for each GPU.
    """
    names = "SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"
    tasks = next((os.environ[name] for name in names if name in os.environ), "")
    return re.fullmatch(r"1(\(x\d+\))?", tasks) is not None


def _proxy(address):
    """Returns the address by which JAX reaches the coordinator at `address`."""
    # The links notice the loss of the primary host.
    return Proxy(*_split(address)).address


def _write_to_cache(key, seconds, name, backend, executable, host_callbacks):
    """Writes a program to JAX's compilation cache, which JAX does on host 0 only.

    Programs of a host's own devices have other keys on every host, and so has every
    program of CPUs. Without this, hosts would compile them again at every start.
    """
    is_slow = seconds >= jax.config.jax_persistent_cache_min_compile_time_secs
    if is_slow and not host_callbacks:
        with contextlib.suppress(Exception):  # the cache only saves time
            compilation_cache.put_executable_and_time(
                key, name, executable, backend, int(seconds)
            )


def _split(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _checked(address):
    """Returns the host and the port of an address.

    Raises:
      InputError: if the host has no address.
    """
    host, port = _split(address)
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise InputError(
            f"config.coordinator is {address!r}, but {host} has no address "
            f"({error.strerror}); set it to the address host:port of process 0"
        ) from None
    return host, port


def _give_up(config):
    error = _not_connected(config, f"JAX did not connect them within {_JAX_TIMEOUT} s")
    fail(error)


def _not_connected(config, reason):
    if config.coordinator:
        return InputError(
            f"config.coordinator is {config.coordinator!r}, but its "
            f"{config.num_processes} processes cannot be connected ({reason}); start "
            "all of them within config.connection_timeout, and check the address"
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
    all hosts exit with 2. Otherwise it returns when the body has ended on all hosts.
    With a single host the error is raised as usual.
    """
    try:
        yield
        if _links is not None:
            _links.finish()
    except (Exception, KeyboardInterrupt) as error:
        if _links is None:
            raise
        fail(error)


def end_at_sigterm_before_steps() -> None:
    """Ends the processes of all hosts at SIGTERM, until training makes steps.

    With a single host, SIGTERM ends the process as usual.
    """

    def end():
        os.write(2, b"SIGTERM: leaving before the first step\n")
        fail(
            StoppedError(
                f"stopped by SIGTERM on host {_number} before the first step; run the "
                "same command on every host to resume",
                128 + signal.SIGTERM,
            )
        )

    if _links is not None:
        termination.end_at_sigterm_before_steps(end)


def leave(code: int) -> None:
    """Exits with `code` if there are several hosts, all of which have finished.

    JAX would wait for the other hosts once more, which may be gone by now.
    """
    if _links is not None:
        # Not `sys.exit`: JAX would wait there for hosts that cannot come.
        termination.exit_now(code)


def fail(error: BaseException) -> None:
    """Reports an error of this host and ends the processes of all hosts, if several."""
    if host_errors.is_of_connection(error):
        # If another host is gone, its link says so, and names it.
        time.sleep(PROBE_SECONDS)
    message = host_errors.message(error, _number)
    code = host_errors.exit_code(error)
    if isinstance(_links, host_links.HostLink):
        _links.report(message, code)  # the primary host prints it, and ends this one
    _end(message, code)


def _end(message, code):
    """Prints a message if there is one, and ends the processes of all hosts."""
    if not _failing.acquire(blocking=False):
        threading.Event().wait()  # another thread is ending the process
    if message and not _is_told:
        prefix = "error: " if code == host_links.FAILURE else ""
        print(f"{prefix}{message}", file=sys.stderr, flush=True)
    if isinstance(_links, host_links.PrimaryLinks):
        _links.dismiss(code)
    termination.exit_now(code)
