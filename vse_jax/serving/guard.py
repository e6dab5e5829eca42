"""Checks every request before the application sees it, and answers every error."""

import logging
import re
import socket
import traceback

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vse_jax.errors import ReportedError
from vse_jax.serving.answers import SECURITY_HEADERS, RequestError, error_answer

logger = logging.getLogger(__name__)

MAXIMUM_TARGET = 2**14  # characters of a path with its query
MAXIMUM_BODY = 20 * 2**20  # bytes
_ANY_ADDRESS = ("0.0.0.0", "::")
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(?::\d*)?")  # a name or address, and a port
_RAW_SECURITY_HEADERS = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
_STATUS_WORDS = {
    404: "there is nothing at this path; / is the page, and /api lists the endpoints",
    405: "this path does not take this method",
}


class Guard:
    """ASGI middleware that refuses requests and answers errors as JSON.

    A web page of another host could let its own name lead to this address (DNS
    rebinding) and read the answers. Its requests have its name in the header `Host`,
    which is therefore checked.
    """

    def __init__(self, app: ASGIApp, host: str):
        """Wraps an application.

        Args:
          app: the application.
          host: name or address on which the server listens.
        """
        self._app = app
        self._names = _served_names(host)
        self._takes_addresses = host in _ANY_ADDRESS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_started = False

        async def send_safely(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = [*message["headers"], *_RAW_SECURITY_HEADERS]
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check(scope, headers)
            scope["app"] = self._app  # so that its router raises errors
            await self._app(scope, _LimitedBody(receive).receive, send_safely)
        except ClientDisconnect:
            return None
        except Exception as error:
            if is_started:
                _log(error)
                raise
            response = error_answer(_as_request_error(error))
            await response(scope, receive, send_safely)

    def _check(self, scope, headers):
        name = _without_port(headers.get("host", ""))
        if name not in self._names and not (
            self._takes_addresses and _is_address(name)
        ):
            names = ", ".join(sorted(self._names))
            raise RequestError(
                421, f"this server is not {name[:100]!r}; it answers to {names}"
            )
        length = len(scope["raw_path"]) + len(scope["query_string"])
        if length > MAXIMUM_TARGET:
            raise RequestError(
                414,
                f"the URL has {length:,} bytes; expected at most {MAXIMUM_TARGET:,}",
            )
        # The connection has checked that it is a number.
        if int(headers.get("content-length", "0")) > MAXIMUM_BODY:
            raise _too_large()


class _LimitedBody:
    """Counts the bytes of a body that does not tell its length."""

    def __init__(self, receive: Receive):
        self._receive, self._bytes = receive, 0

    async def receive(self) -> Message:
        """Receives a part of the body."""
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MAXIMUM_BODY:
            raise _too_large()
        return message


def _too_large():
    return RequestError(
        413, f"the request is too large; expected at most {MAXIMUM_BODY / 2**20:g} MiB"
    )


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ReportedError):
        return RequestError(400, str(error))
    if isinstance(error, HTTPException):
        message = _STATUS_WORDS.get(error.status_code, error.detail)
        return RequestError(error.status_code, message, error.headers)
    _log(error)
    return RequestError(500, "the server failed to answer; its log says where")


def _log(error: Exception) -> None:
    """Logs where an error was raised, but not its text, which may quote the request."""
    places = traceback.extract_tb(error.__traceback__)
    trace = " < ".join(f"{place.filename}:{place.lineno}" for place in places[:-6:-1])
    logger.error("a request failed: %s at %s", type(error).__name__, trace)


def _served_names(host: str) -> frozenset[str]:
    names = {"localhost", "127.0.0.1", "[::1]", _bracketed(host.lower())}
    if host in _ANY_ADDRESS:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        names.discard(_bracketed(host))
    return frozenset(names)


def _bracketed(host):
    return f"[{host}]" if ":" in host else host


def _without_port(host: str) -> str:
    name = _HOST.fullmatch(host)
    return name[1].lower().rstrip(".") if name else host


def _is_address(name: str) -> bool:
    """Returns whether a name is an address, which no foreign web page can redirect."""
    for family, text in ((socket.AF_INET, name), (socket.AF_INET6, name.strip("[]"))):
        try:
            socket.inet_pton(family, text)
            return True
        except (OSError, UnicodeError):
            pass
    return False
