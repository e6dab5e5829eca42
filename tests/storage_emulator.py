"""An emulator of Google Cloud Storage, for tests of `gs://` paths.

`gcp-storage-emulator` implements most of the protocol. This module adds what gcsfs and
TensorStore use besides: moves, ranges of the last bytes, generations in headers and
conditions on them. The emulator runs in a thread and records all requests.
"""

import collections
import functools
import http.server
import logging
import re
import threading
import urllib.parse

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

from tests.object_store import BUCKET

for _name in ("gcp_storage_emulator", "api.object"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

FORBIDDEN = "forbidden"  # a bucket without permission
ANONYMOUS = "anonymous"  # a bucket that asks for credentials
_REFUSED = {
    FORBIDDEN: (403, "me@example.com does not have storage.objects.list access"),
    ANONYMOUS: (401, "Anonymous caller does not have storage.objects.list access"),
}
_OBJECT = re.compile("(/download)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)")
_UPLOAD = re.compile("/upload/storage/v1/b/(?P<bucket>[^/]+)/o")
_MOVE = re.compile(
    "/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<source>[^/]+)/moveTo/o/(?P<target>[^/]+)"
)


class Emulator:
    """A running emulator with one bucket.

    Attributes:
      url: address of the emulator.
      requests: method, path and range of each request since the last `clear`.
    """

    def __init__(self):
        self.requests: list[tuple[str, str, str]] = []
        storage = _Memory(use_memory_fs=True)
        buckets.create_bucket(BUCKET, storage)
        self.lock = threading.Lock()  # the emulator's storage is not thread-safe
        handler = functools.partial(_Handler, self, storage)
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stops the emulator."""
        self._server.shutdown()
        self._server.server_close()

    def count(self, pattern: str = "") -> int:
        """Returns the number of requests whose path matches a regular expression."""
        return sum(bool(re.search(pattern, path)) for _, path, _ in self.requests)

    def summary(self) -> dict[str, int]:
        """Returns the number of requests by method and path, for messages."""
        counts = collections.Counter(
            f"{method} {path.partition('?')[0]}" for method, path, _ in self.requests
        )
        return dict(counts.most_common())

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process that uses the emulator."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,  # gcsfs and google-cloud-storage
            "FSSPEC_GCS": '{"token": "anon", "use_listings_cache": false}',
            "GOOGLE_CLOUD_PROJECT": "project",
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",  # TensorStore
        }


class _Memory(Storage):
    """Keeps everything in memory, and nothing that was deleted."""

    def _write_config_to_file(self):
        pass

    def _bucket_soft_delete_retention_seconds(self, bucket_name):
        return 0


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # TensorStore opens many connections at once

    def handle_error(self, *args):
        pass  # a client that closed its connection


class _Handler(server.RequestHandler):
    def __init__(self, emulator, storage, *args):
        self._emulator = emulator
        self._generation = None
        super().__init__(storage, *args)

    def do_GET(self):  # noqa: N802
        self._handle("GET")

    def do_POST(self):  # noqa: N802
        self._handle("POST")

    def do_PUT(self):  # noqa: N802
        self._handle("PUT")

    def do_DELETE(self):  # noqa: N802
        self._handle("DELETE")

    def do_PATCH(self):  # noqa: N802
        self._handle("PATCH")

    def log_message(self, *args):
        pass

    def end_headers(self):
        if self._generation is not None:
            self.send_header("X-Goog-Generation", self._generation)
        super().end_headers()

    def _handle(self, method):
        span = self.headers.get("Range", "")
        self._emulator.requests.append((method, self.path, span))
        url = urllib.parse.urlsplit(self.path)
        self._query = urllib.parse.parse_qs(url.query)
        with self._emulator.lock:
            bucket = re.search("/b/([^/]+)", url.path)
            if bucket and bucket[1] in _REFUSED:
                self._refuse(*_REFUSED[bucket[1]])
            elif moved := _MOVE.fullmatch(url.path):
                self._move(**_unquoted(moved))
            elif self._meets_conditions(method, url.path):
                if span.startswith("bytes=-"):
                    self._make_absolute(url.path, int(span.removeprefix("bytes=-")))
                server.Router(self).handle(method)

    def _refuse(self, code, message=""):
        response = server.Response(self)
        response.status = http.HTTPStatus(code)
        response.json({"error": {"code": code, "message": message}})
        response.close()

    def _move(self, bucket, source, target):
        response = server.Response(self)
        try:
            moved = objects._copy("", self.storage, bucket, source, bucket, target)
            objects._delete(self.storage, bucket, source)
            response.json(moved)
        except NotFound:
            response.status = http.HTTPStatus.NOT_FOUND
        response.close()

    def _meets_conditions(self, method, path) -> bool:
        """Compares generations; responds and returns False if they do not fit."""
        if read := _OBJECT.fullmatch(path):
            found = self._find(**_unquoted(read))
            if found and self._query.get("alt") == ["media"]:
                self._generation = found["generation"]
        elif (write := _UPLOAD.fullmatch(path)) and "name" in self._query:
            found = self._find(write["bucket"], self._query["name"][0])
        else:
            return True
        generation = found["generation"] if found else "0"
        expected = self._query.get("ifGenerationMatch", [generation])[0]
        if expected != generation:
            self._read_body()
            self._refuse(412)
            return False
        if self._query.get("ifGenerationNotMatch") == [generation] and found:
            self._refuse(304)
            return False
        return True

    def _find(self, bucket, name):
        return self.storage.objects.get(bucket, {}).get(name)

    def _read_body(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _make_absolute(self, path, length):
        """Replaces a range of the last bytes by one that the emulator understands."""
        found = self._find(**_unquoted(_OBJECT.fullmatch(path)))
        start = max(0, int(found["size"]) - length) if found else 0
        self.headers.replace_header("Range", f"bytes={start}-")


def _unquoted(match: re.Match) -> dict[str, str]:
    return {name: urllib.parse.unquote(v) for name, v in match.groupdict().items()}
