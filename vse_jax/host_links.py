"""TCP links between the hosts of a run, by which they notice that one is gone.

Every host has a link to the primary host. The kernel closes it as soon as a process
ends, even if it is killed, and probes it, so that a machine that stopped is noticed
within 20 s. A host that only waits for others, or is suspended, still answers.

The hosts are linked before JAX connects them. The primary host listens to the port of
JAX's service, which does not run yet, and knows which hosts are missing.

The links carry one JSON object a line: failures, which end all hosts, and whether a
host has finished, so that its exit is no failure.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from vse_jax.errors import InputError
from vse_jax.host_command import difference
from vse_jax.host_proxy import probe, start_thread

logger = logging.getLogger(__name__)

DISMISS_SECONDS = 5.0  # at most, until the other hosts have exited
FAILURE = 2  # exit code
SECONDS_BETWEEN_LINES = 10.0  # that name the hosts which are missing
_LONGEST_LINE = 1 << 20
_HELLO_SECONDS = 5.0
_POLL_SECONDS = 0.5
_ABSENT = "not started, or not reachable"

End = Callable[[str, int], None]


class HostGoneError(Exception):
    """A host ended without having finished."""


class MissingHostError(OSError):
    """A host did not start, or cannot be reached, or is another one than expected."""


def gone(number: int, name: str = "") -> str:
    """Returns the message for a host that is gone."""
    which = f"host {number} ({name})" if name else f"host {number}"
    return (
        f"{which} is gone: its process was killed or its machine stopped; start the "
        "same command again on every host"
    )


def this_process() -> str:
    """Returns the machine's name and the process ID, for messages."""
    return f"{socket.gethostname()}, process {os.getpid()}"


class _Link:
    """One end of a connection."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._sending = threading.Lock()
        probe(connection)

    def send(self, **message) -> None:
        """Sends a message; does nothing if the other end is closed."""
        line = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(line)

    def messages(self) -> Iterator[dict]:
        """Yields messages until the other end is closed or does not answer."""
        lines = self._connection.makefile("rb")
        with contextlib.suppress(OSError, ValueError), lines:
            while line := lines.readline(_LONGEST_LINE):
                yield json.loads(line)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class PrimaryLinks:
    """The primary host's links to all other hosts."""

    def __init__(
        self,
        num_hosts: int,
        port: int,
        end: End,
        command: Mapping[str, str] | None = None,
    ):
        """Listens for the other hosts.

        Args:
          num_hosts: number of hosts, with this one.
          port: port to listen to until all hosts are linked.
          end: ends the process because of a failure, given its message and the exit
            code. Called by a thread.
          command: what this host was started with, see `host_command.describe`; None
            if the others may have been started with anything.

        Raises:
          OSError: if the port cannot be used.
        """
        self._end = end
        self._command = command
        self._commands = {}  # of the other hosts
        self._num_hosts = num_hosts
        self._missing = set(range(1, num_hosts))
        self._refused = ""  # why the last process was refused
        self._links = {}
        self._changed = threading.Condition()
        self._finished = set()
        self._all_finished = False
        self._open = set()  # hosts whose links are not closed
        self._server = _listen(port)

    @property
    def address(self) -> tuple[str, int]:
        """Address on this machine to which it listens."""
        return "127.0.0.1", self._server.getsockname()[1]

    def accept(self, timeout: float) -> None:
        """Waits until all hosts are linked; logs which ones are missing.

        Args:
          timeout: seconds to wait.

        Raises:
          InputError: if a host was started with another command.
          MissingHostError: if hosts are missing after the time.
        """
        wait = _Wait(timeout, SECONDS_BETWEEN_LINES)
        with self._server:
            while self._missing:
                which = self._which_are_missing()
                self._server.settimeout(wait.seconds(which, self._refused or _ABSENT))
                with contextlib.suppress(TimeoutError):
                    connection, _ = self._server.accept()
                    connection.settimeout(_HELLO_SECONDS)
                    self._welcome(connection)
        self._check_commands()
        for link in self._links.values():
            link.send(name=this_process())

    def _check_commands(self):
        for number, command in sorted(self._commands.items()):
            # A host with a mistake in its command line has none.
            both_known = command and self._command
            message = both_known and difference(number, command, self._command)
            if message:
                raise InputError(message)

    def _which_are_missing(self):
        *most, last = map(str, sorted(self._missing))
        hosts = f"hosts {', '.join(most)} and {last}" if most else f"host {last}"
        return f"{hosts} of {self._num_hosts}"

    def _welcome(self, connection):
        link = _Link(connection)
        messages = link.messages()
        hello = next(messages, {})
        number = hello.get("number") if isinstance(hello, dict) else None
        if type(number) is not int or not hello.keys() >= {"of", "name"}:
            link.close()  # not a host
            return
        if hello["of"] != self._num_hosts or number not in self._missing:
            refusal = self._refusal(number, hello["of"])
            self._refused = f"{hello['name']} was refused: {refusal}"
            logger.info("%s", self._refused)
            link.send(refusal=refusal)
            link.close()
            return
        connection.settimeout(None)
        self._missing.remove(number)
        self._links[number] = link
        command = hello.get("command")
        self._commands[number] = command if isinstance(command, dict) else {}
        self._open.add(number)
        start_thread(self._watch, number, hello["name"], messages)

    def _refusal(self, number, num_hosts):
        if num_hosts != self._num_hosts:
            return f"host 0 expects {self._num_hosts} processes, not {num_hosts}"
        return f"there is another process with number {number}"

    def _watch(self, number, name, messages):
        for message in messages:
            if "failure" in message:
                self._close(number)
                self._end(message["failure"], message["code"])
            with self._changed:
                self._finished.add(number)
                self._changed.notify_all()
        self._close(number)
        if not self._all_finished:
            self._end(gone(number, name), FAILURE)

    def _close(self, number):
        with self._changed:
            self._open.discard(number)
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits until all hosts have called it; then they may exit in any order."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished == self._links.keys())
            self._all_finished = True
        for link in self._links.values():
            link.send(finished=True)

    def dismiss(self, code: int) -> None:
        """Tells all hosts to exit with a code, and waits a moment until they have."""
        for link in list(self._links.values()):
            link.send(exit=code)
        with self._changed:
            self._changed.wait_for(lambda: not self._open, DISMISS_SECONDS)


class HostLink:
    """Another host's link to the primary host."""

    def __init__(
        self,
        address: tuple[str, int],
        number: int,
        num_hosts: int,
        timeout: float,
        end: End,
        command: Mapping[str, str] | None = None,
    ):
        """Connects to the primary host, and waits until it has links to all hosts.

        Args:
          address: host and port of the primary host.
          number: number of this host.
          num_hosts: number of hosts.
          timeout: seconds to wait for the primary host.
          end: ends the process, given a message to print and the exit code; called by a
            thread. The message is empty if the primary host has printed one.
          command: what this host was started with, or None; see `PrimaryLinks`.

        Raises:
          HostGoneError: if the primary host ends meanwhile.
          MissingHostError: if it does not answer in time, or refuses this host.
        """
        self._end = end
        self._finished = threading.Event()
        connection = _connect(address, timeout)
        self._link = _Link(connection)
        self._link.send(
            number=number, of=num_hosts, name=this_process(), command=command
        )
        # The primary host decides how long to wait for the others.
        connection.settimeout(None)
        messages = self._link.messages()
        welcome = next(messages, None)
        if welcome is None:
            raise HostGoneError(gone(0))
        if "refusal" in welcome:
            raise MissingHostError(welcome["refusal"])
        if "exit" in welcome:
            self._end("", welcome["exit"])
        start_thread(self._watch, welcome["name"], messages)

    def _watch(self, name, messages):
        for message in messages:
            if "exit" in message:
                self._end("", message["exit"])
            self._finished.set()
        if not self._finished.is_set():
            self._end(gone(0, name), FAILURE)

    def report(self, failure: str, code: int) -> None:
        """Reports a failure; returns only if the primary host does not react."""
        self._link.send(failure=failure, code=code)
        time.sleep(2 * DISMISS_SECONDS)

    def finish(self) -> None:
        """Waits until all hosts have called it; then they may exit in any order."""
        self._link.send(finished=True)
        self._finished.wait()


class _Wait:
    """The time that is left to wait for hosts; logs progress."""

    def __init__(self, timeout, between_lines):
        self._timeout = timeout
        self._between_lines = between_lines
        self._start = time.monotonic()
        self._next_line = between_lines

    def seconds(self, missing, reason):
        """Returns for how long to wait now.

        Args:
          missing: hosts that are missing, for messages.
          reason: why, as far as it is known.

        Raises:
          MissingHostError: if no time is left.
        """
        waited = time.monotonic() - self._start
        if waited >= self._timeout:
            raise MissingHostError(
                f"{missing} did not answer within {self._timeout:g} s: {reason}"
            )
        if waited >= self._next_line:
            self._next_line += self._between_lines
            logger.info("waiting for %s (%.0f s)", missing, waited)
        return max(0.01, min(_POLL_SECONDS, self._timeout - waited))


def _connect(address, timeout):
    wait = _Wait(timeout, 3 * SECONDS_BETWEEN_LINES)  # the primary host logs as well
    missing, reason = f"host 0 at {address[0]}:{address[1]}", "not reachable"
    while True:
        seconds = wait.seconds(missing, reason)
        try:
            return socket.create_connection(address, _HELLO_SECONDS)
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(seconds)


def _listen(port):
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(("", port), backlog=1024)
