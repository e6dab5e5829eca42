"""Files that do not change while the server runs, and answers that browsers keep."""

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES = {
    "/": ("page.html", "text/html"),
    "/api": ("api.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/query.js": ("query.js", "text/javascript"),
    "/results.js": ("results.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def routes() -> list[Route]:
    """Returns routes to the files of the page, which are read once."""
    return [
        Route(path, _endpoint(*file), methods=["GET"]) for path, file in _FILES.items()
    ]


def _endpoint(name, media_type):
    content = resources.files("vse_jax.serving").joinpath("page", name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return kept_by_browser(request, content, media_type)

    return endpoint


def kept_by_browser(request: Request, content: bytes, media_type: str) -> Response:
    """Returns a response that a browser keeps, but asks each time if it is current.

    Another gallery may be served at the same address later.
    """
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
