"""Answers of the server as JSON, and the errors that become such answers."""

import json

from starlette.responses import Response

# Pages of other hosts can neither show nor read what the server sends, and the page
# loads nothing from other hosts.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RequestError(Exception):
    """A request that cannot be answered: a status and one line for the client."""

    def __init__(self, status: int, message: str, headers: dict | None = None):
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def to_json(content: dict) -> bytes:
    """Returns JSON in ASCII, since a text may have halves of surrogate pairs."""
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def answer(content: dict, status: int = 200, headers: dict | None = None) -> Response:
    """Returns a response that no cache keeps."""
    headers = {"cache-control": "no-store"} | (headers or {})
    return Response(to_json(content), status, headers, "application/json")


def error_answer(error: RequestError) -> Response:
    """Returns the response of an error: `{"error": "one line"}`."""
    return answer({"error": str(error)}, error.status, error.headers)
