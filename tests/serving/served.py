"""Starts servers in processes of their own, and sends them requests."""

import contextlib
import http.client
import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests import programs

TIMEOUT = 60  # seconds


class Answer(NamedTuple):
    """Status, headers and body of an answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers["content-type"] == "application/json", self.body[:300]
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The line of an error; checks that there is no more than that."""
        assert self.status >= 400, self.body[:300]
        assert list(self.json) == ["error"]
        assert "\n" not in self.json["error"]
        return self.json["error"]


class Served:
    """A server in a process of its own.

    Attributes:
      process: the process.
      port: where it listens, on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen, url: str):
        self.process = process
        self.url = url
        self.port = urllib.parse.urlsplit(url).port

    def connect(self, timeout: float = TIMEOUT) -> http.client.HTTPConnection:
        """Returns a connection for one or more requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, path: str, method: str = "GET", **options) -> Answer:
        """Sends one request; `options` are those of `http.client`."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, **options)
            return answer_of(connection)

    def search(self, method: str = "GET", **parameters) -> Answer:
        """Searches; the values of `parameters` may be lists."""
        path = f"/search?{urllib.parse.urlencode(parameters, doseq=True)}"
        return self.request(path, method)

    def upload(self, body: bytes, media_type: str, **parameters) -> Answer:
        """Searches by a photo, or by a form."""
        path = f"/search?{urllib.parse.urlencode(parameters, doseq=True)}"
        return self.request(
            path, "POST", body=body, headers={"content-type": media_type}
        )

    def end(self, number: int) -> programs.Finished:
        """Sends a signal and waits for the end."""
        self.process.send_signal(number)
        return programs.finish(self.process)


def answer_of(connection: http.client.HTTPConnection) -> Answer:
    """Reads an answer."""
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def form(*fields: tuple[str, str | bytes]) -> tuple[bytes, str]:
    """Returns the body of a form, in which bytes are files, and its media type."""
    parts = []
    for name, value in fields:
        file = '; filename="photo.png"' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        head = f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(b"--limit\r\n" + head.encode() + data + b"\r\n")
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


@contextlib.contextmanager
def colors(*options: str) -> Iterator[Served]:
    """Serves `color_searcher` until the end of the context."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    process = programs.start_python(
        "-m",
        "tests.serving.color_searcher",
        *options,
        env=programs.environment() | quiet,
    )
    with ending(process):
        yield Served(process, first_line(process))


def first_line(process: subprocess.Popen) -> str:
    """Returns the first line of standard output, for which it waits."""
    line = process.stdout.readline().strip()
    if not line:
        raise AssertionError(f"it ended: {programs.finish(process).stderr}")
    return line


@contextlib.contextmanager
def ending(process: subprocess.Popen) -> Iterator[None]:
    """Kills a process at the end of the context, if it still runs."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()
