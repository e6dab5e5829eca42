"""Listens, answers until Ctrl-C or SIGTERM, and completes pending answers."""

import contextlib
import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from vse_jax.errors import InputError
from vse_jax.serving.connection import MAXIMUM_HEADER_BYTES, Connection

_KEEP_ALIVE_SECONDS = 15
_ENDING_SECONDS = 15  # for answers that are in flight


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound, but does not accept connections yet.

    Args:
      host: name or address.
      port: 0 for any that is free.

    Raises:
      InputError: if the port is in use, or the address is not one of this machine.
    """
    if not host:
        raise InputError("--host is empty; expected a name or an address")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):  # such as an empty label
        raise InputError(
            f"--host={host} is not known; expected a name or an address of this machine"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(error, host, port) from None
    return listener


def _cannot_listen(error, host, port) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"port {port} is in use; choose another by --port, or --port=0 for any"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError(f"--host={host} is not an address of this machine")
    return InputError(f"cannot listen on port {port}: {os.strerror(error.errno)}")


def url_of(listener: socket.socket) -> str:
    """Returns the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: ASGIApp, listener: socket.socket, ready: Callable[[], None]) -> int:
    """Serves until Ctrl-C or SIGTERM, then answers what has been asked.

    A second Ctrl-C does not wait for the answers.

    Args:
      app: the application.
      listener: see `listen`; it is closed at the end.
      ready: called when clients can connect.

    Returns:
      The exit code, 128 plus the number of the signal.

    Raises:
      InputError: if another process has begun to listen on the port.
    """
    # Their lines may quote requests, and clients could fill the log; what fails is
    # logged by `guard`.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        lifespan="off",
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_ENDING_SECONDS,
        h11_max_incomplete_event_size=MAXIMUM_HEADER_BYTES,
    )
    server = _Server(config, ready)
    # The garbage collector would look at all objects of JAX and TensorFlow every few
    # seconds, for half a second in which nothing is answered.
    gc.freeze()
    try:
        server.run([listener])
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _cannot_listen(error, host, port) from None
    return 128 + server.signal


class _Server(uvicorn.Server):
    """Notes the signal that ends it, instead of raising it again."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready
        self.signal = signal.SIGTERM

    @contextlib.contextmanager
    def capture_signals(self):
        """Handles Ctrl-C and SIGTERM, within the context."""
        handlers = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig, frame):
        """Ends the server."""
        self.signal = signal.Signals(sig)
        super().handle_exit(sig, frame)

    async def startup(self, sockets=None):
        """Accepts connections."""
        await super().startup(sockets)
        self._ready()
