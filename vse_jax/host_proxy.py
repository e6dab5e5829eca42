"""A proxy between JAX and its coordination service, as a process of its own.

JAX aborts the process with a stack trace as soon as its connection to the primary host
is closed. The proxy leaves it open, so that the process can say what happened and exit.
It cannot be a thread: JAX holds the interpreter's lock while hosts agree on the step of
a checkpoint, and then waits for messages that the proxy would have to pass on.

This file is also the program of that process, so it imports nothing but the standard
library.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

PROBE_AFTER = 5  # seconds of silence
PROBE_EVERY = 3  # seconds
PROBES = 4  # unanswered, until a machine counts as gone
PROBE_SECONDS = PROBE_AFTER + PROBE_EVERY * PROBES
_CONNECT_SECONDS = 30.0


class Proxy:
    """Passes JAX's connection on to the primary host, and outlives its death.

    Attributes:
      address: address on this machine for JAX to connect to.
    """

    def __init__(self, host: str, port: int):
        """Starts the process, which ends with this one.

        Args:
          host: address of the primary host.
          port: port of JAX's service there.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, host, str(port)],
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = f"127.0.0.1:{self._process.stdout.readline().strip()}"


def probe(connection: socket.socket) -> None:
    """Makes the kernel notice within 20 s that the other machine has stopped."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options = {
        "TCP_KEEPIDLE": PROBE_AFTER,
        "TCP_KEEPALIVE": PROBE_AFTER,  # its name on macOS
        "TCP_KEEPINTVL": PROBE_EVERY,
        "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": 1000 * PROBE_SECONDS,  # for data that is not acknowledged
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _serve(server, primary):
    while True:
        inner, _ = server.accept()
        try:
            outer = socket.create_connection(primary, _CONNECT_SECONDS)
        except OSError:
            inner.close()  # the primary host has not started; JAX tries again
            continue
        outer.settimeout(None)
        probe(outer)
        start_thread(_pass_on, inner, outer)
        start_thread(_copy, outer, inner)  # leaves `inner` open at its end


def _pass_on(inner, outer):
    _copy(inner, outer)
    with contextlib.suppress(OSError):
        outer.shutdown(socket.SHUT_RDWR)


def _copy(source, sink):
    """Copies bytes until an end is closed."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


def start_thread(function: Callable, *args) -> None:
    """Calls a function in a thread that does not keep the process alive."""
    threading.Thread(target=function, args=args, daemon=True).start()


def main() -> None:
    """Runs the proxy until the process that started it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # that process decides when it ends
    host, port = sys.argv[1:]
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    start_thread(_serve, server, (host, int(port)))
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
