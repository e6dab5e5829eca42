"""TCP links between the hosts of a run, by which they notice that one is gone.

Every host has a link to the primary host. The kernel closes it as soon as a process
ends, even if it is killed, and probes it so that a machine which stopped is noticed
within half a minute. A host that only waits for others, or is suspended, still answers.

The links carry one JSON object a line: failures, which end all hosts, and whether a
host has finished, so that its exit is no failure.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from vse_jax.host_proxy import probe, start_thread

DISMISS_SECONDS = 5.0  # at most, until the other hosts have exited
_LONGEST_LINE = 1 << 20
_WELCOME_SECONDS = 30.0


class HostGoneError(Exception):
    """A host ended without having finished."""


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

    def __init__(self, num_hosts: int, end: Callable[[str], None]):
        """Listens for the other hosts.

        Args:
          num_hosts: number of hosts, with this one.
          end: ends the process because of a failure, given its message. Called by a
            thread.
        """
        self._end = end
        self._missing = set(range(1, num_hosts))
        self._links = {}
        self._changed = threading.Condition()
        self._finished = set()
        self._all_finished = False
        self._open = set()  # hosts whose links are not closed
        self._token = secrets.token_hex()
        self._server = _listen()
        # Any port: the other hosts learn it together with the token.
        self.invitation = f"{self._server.getsockname()[1]} {self._token}"

    def accept(self) -> None:
        """Waits until all hosts are linked.

        Raises:
          HostGoneError: if a host does not answer.
        """
        self._server.settimeout(_WELCOME_SECONDS)
        with self._server:
            while self._missing:
                try:
                    connection, _ = self._server.accept()
                except TimeoutError:
                    raise HostGoneError(gone(min(self._missing))) from None
                connection.settimeout(_WELCOME_SECONDS)
                self._welcome(connection)

    def _welcome(self, connection):
        link = _Link(connection)
        messages = link.messages()
        hello = next(messages, {})
        number = hello.get("number")
        if hello.get("token") != self._token or number not in self._missing:
            link.close()  # not a host of this run
            return
        connection.settimeout(None)
        self._missing.remove(number)
        self._links[number] = link
        self._open.add(number)
        link.send(name=this_process())
        start_thread(self._watch, number, hello["name"], messages)

    def _watch(self, number, name, messages):
        for message in messages:
            if "failure" in message:
                self._close(number)
                self._end(message["failure"])
            with self._changed:
                self._finished.add(number)
                self._changed.notify_all()
        self._close(number)
        if not self._all_finished:
            self._end(gone(number, name))

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

    def dismiss(self) -> None:
        """Tells all hosts to exit, and waits a moment until they have."""
        for link in list(self._links.values()):
            link.send(exit=True)
        with self._changed:
            self._changed.wait_for(lambda: not self._open, DISMISS_SECONDS)


class HostLink:
    """Another host's link to the primary host."""

    def __init__(
        self, host: str, invitation: str, number: int, end: Callable[[str], None]
    ):
        """Connects to the primary host.

        Args:
          host: address of the primary host.
          invitation: `PrimaryLinks.invitation`.
          number: number of this host.
          end: ends the process, given a message to print; called by a thread. The
            message is empty if the primary host has printed one.

        Raises:
          HostGoneError: if the primary host does not answer.
        """
        self._end = end
        self._finished = threading.Event()
        self._closed = threading.Event()
        port, token = invitation.split()
        try:
            connection = socket.create_connection((host, int(port)), _WELCOME_SECONDS)
        except OSError:
            raise HostGoneError(gone(0)) from None
        self._link = _Link(connection)
        self._link.send(token=token, number=number, name=this_process())
        messages = self._link.messages()
        welcome = next(messages, None)
        if welcome is None:
            raise HostGoneError(gone(0))
        connection.settimeout(None)
        start_thread(self._watch, welcome["name"], messages)

    def _watch(self, name, messages):
        for message in messages:
            if "exit" in message:
                self._end("")
            self._finished.set()
        if not self._finished.is_set():
            self._end(gone(0, name))

    def report(self, failure: str) -> None:
        """Reports a failure; returns only if the primary host does not react."""
        self._link.send(failure=failure)
        time.sleep(2 * DISMISS_SECONDS)

    def finish(self) -> None:
        """Waits until all hosts have called it; then they may exit in any order."""
        self._link.send(finished=True)
        self._finished.wait()


def _listen():
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(("", 0), backlog=1024)
