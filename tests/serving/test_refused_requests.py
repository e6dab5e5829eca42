"""What a hostile, broken or slow client sends is refused, and the server goes on."""

import contextlib
import io
import json
import socket
import struct
import time
import zlib

import pytest

from tests.serving import served
from tests.serving.color_searcher import (
    COLORS,
    FAILING,
    SLOW,
    id_of,
    photo_of,
)
from vse_jax.serving.connection import MAXIMUM_CONNECTIONS
from vse_jax.serving.guard import MAXIMUM_BODY

REQUEST_SECONDS = 2


@pytest.fixture(scope="module")
def running():
    with served.colors(f"--request_seconds={REQUEST_SECONDS}") as process:
        yield process


@pytest.fixture
def server(running):
    """A server that still answers after the test."""
    yield running
    found = running.search(q="blue", k=1)
    assert found.json["hits"][0]["id"] == id_of("blue")


@contextlib.contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        yield client


def exchange(server, *parts, pause=0.0):
    """Sends bytes and returns all that comes back: status, and the body's JSON."""
    with connected(server) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        return answer_to(client)


def answer_to(client):
    received = b""
    while data := client.recv(2**16):
        received += data
        head, _, body = received.partition(b"\r\n\r\n")
        if b"content-length: %d\r\n" % len(body) in head + b"\r\n":
            break
    status = int(received.split()[1])
    return status, json.loads(body)


def raw(server, line, *headers, host=None):
    host = f"127.0.0.1:{server.port}" if host is None else host
    lines = [line, *([f"Host: {host}"] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/search", 400, "the query is empty"),
        ("/search?q=", 400, "the query is empty"),
        ("/search?q=+%09", 400, "the query is empty"),
        ("/search?q=red&k=0", 400, "k is '0'; expected a number from 1 to 1,000"),
        ("/search?q=red&k=1001", 400, "k is '1001'"),
        ("/search?q=red&k=-1", 400, "k is '-1'"),
        ("/search?q=red&k=1e3", 400, "k is '1e3'"),
        ("/search?q=red&k=%D9%A3", 400, "expected a number"),  # an Arabic digit
        (f"/search?q=red&k={'9' * 5000}", 400, "expected a number"),
        ("/search?q=red&k=2&k=3", 400, "k is given twice"),
        ("/search?q=red&threshold=nan", 400, "threshold is 'nan'"),
        ("/search?q=red&threshold=much", 400, "threshold is 'much'"),
        ("/search?q=red&color=1", 400, "unknown parameter 'color'; expected q, minus"),
        ("/search?q=red&photo=a.jpg", 400, "photo is a text; expected a file"),
        ("/search?q=0.0:red", 400, "weight of 'red' is 0"),
        (f"/search?q={'9' * 400}.0:red", 400, "weight of 'red' is inf"),
        (f"/search?{'q=red&' * 17}", 400, "17 parts; expected at most 16"),
        (f"/search?{'q=red&' * 999}", 400, "too many parameters"),
        (f"/search?q={'a' * 1001}", 400, "q has 1,001 characters"),
        ("/search?like=nothing", 404, "the gallery has no item 'nothing'"),
        ("/search?like=", 404, "the gallery has no item ''"),
        ("/image/nothing", 404, "the gallery has no item 'nothing'"),
        ("/image/", 404, "there is nothing at this path"),
        ("/image/../../../../etc/passwd", 404, "the gallery has no item"),
        ("/image/..%2f..%2f..%2fetc%2fpasswd", 404, "the gallery has no item"),
        ("/image//etc/passwd", 404, "the gallery has no item"),
        ("/image/%00", 404, "the gallery has no item"),
        ("/image/%ED%A0%80%0A", 404, "the gallery has no item"),
        ("/image/red?size=huge", 400, "one of small, large"),
        ("/image/red?path=/etc/passwd", 400, "no other option than size"),
        ("/page/page.js", 404, "there is nothing at this path"),
        ("/../pyproject.toml", 404, "there is nothing at this path"),
        ("/search/", 404, "there is nothing at this path"),
    ],
)
def test_invalid_request(server, path, status, words):
    answer = server.request(path)
    assert (answer.status, words in answer.error) == (status, True), answer.error


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]
)
def test_wrong_method(server, method):
    answer = server.request("/gallery", method)
    assert answer.status == 405
    assert "does not take this method" in answer.error
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is empty"),
        (b"not an image", "not an image of a known format"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "XML or HTML"),
        (photo_of((1, 2, 3))[:60], ""),
        (photo_of((1, 2, 3), form="JPEG")[:-200], ""),
        (photo_of((1, 2, 3), form="GIF")[:20], ""),
    ],
)
def test_body_that_is_no_photo(server, body, words):
    answer = server.upload(body, "image/jpeg")
    assert answer.status == 400
    assert answer.error.startswith("the photo cannot be used: ")
    assert words in answer.error


def bomb(side):
    """Returns a PNG of a few kB that claims to have `side` x `side` pixels."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(2**22), 9)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_decompression_bomb(server, side):
    start = time.monotonic()
    answer = server.upload(bomb(side), "image/png")
    assert answer.status == 400
    assert answer.error.startswith("the photo cannot be used: ")
    assert time.monotonic() - start < 5


def test_other_kinds_of_bodies(server):
    answer = server.upload(b"{}", "application/json")
    assert answer.status == 415
    assert "multipart/form-data" in answer.error
    assert server.request("/search", "POST", body=b"x").status == 415


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", "multipart/form-data"),  # without a boundary
        (b"no boundary here", "multipart/form-data; boundary=limit"),
        (b"--limit\r\nContent-Disposition: form-data\r\n\r\nx\r\n--limit--\r\n", None),
        (b"--limit\r\nContent-Dis", None),
        (served.form(("q", "a" * 2**21))[0], None),
        (served.form(*[("q", "red")] * 100)[0], None),
        (served.form(("q", b"a file"))[0], None),
        (served.form(("photo", "a text"))[0], None),
        (served.form(("k", b"2"), ("photo", photo_of((1, 2, 3))))[0], None),
        (served.form(("other", photo_of((1, 2, 3))))[0], None),
        (served.form(("photo", b"no image"))[0], None),
    ],
)
def test_invalid_form(server, body, media_type):
    answer = server.upload(body, media_type or "multipart/form-data; boundary=limit")
    assert answer.status == 400
    assert answer.error


def test_large_body_is_refused_before_it_is_read(server):
    length = f"Content-Length: {MAXIMUM_BODY + 1}"
    kind = "Content-Type: image/png"
    status, answer = exchange(
        server, raw(server, "POST /search HTTP/1.1", length, kind)
    )
    assert (status, answer["error"][:29]) == (413, "the request is too large; exp")


def test_large_body_that_hides_its_length(server):
    kind = ("Transfer-Encoding: chunked", "Content-Type: image/png")
    chunk = b"%x\r\n%b\r\n" % (2**20, bytes(2**20))
    count = MAXIMUM_BODY // 2**20 + 2
    head = raw(server, "POST /search HTTP/1.1", *kind)
    status, answer = exchange(server, head, *count * [chunk], b"0\r\n\r\n")
    assert status == 413, answer


def test_photo_of_the_largest_size_is_taken(server):
    photo = photo_of(COLORS["green"])
    answer = server.upload(photo.ljust(MAXIMUM_BODY, b"\0"), "image/png", k=1)
    assert answer.json["hits"][0]["id"] == id_of("green")


def test_query_of_a_megabyte(server):
    answer = server.request(f"/search?q={'a' * 2**20}")
    assert answer.status == 414
    assert "expected at most 16,384" in answer.error


def test_endless_header(server):
    start = raw(server, "GET / HTTP/1.1", "Endless: ").removesuffix(b"\r\n\r\n")
    status, answer = exchange(server, start, *[bytes(2**20).replace(b"\0", b"a")] * 4)
    assert (status, "header is too long" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
        + b"9" * 9000
        + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA\x00: b\r\n\r\n",
    ],
)
def test_what_is_not_http(server, request_):
    status, answer = exchange(server, request_)
    assert (status, "no valid HTTP request" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "localhost.evil:80",
        "[::2]",
        "a b",
    ],
)
def test_foreign_host(server, host):
    status, answer = exchange(
        server, raw(server, "GET /search?q=red HTTP/1.1", host=host)
    )
    assert (status, "it answers to 127.0.0.1" in answer["error"]) == (421, True)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000"]
)
def test_own_host(server, host):
    assert exchange(server, raw(server, "GET /health HTTP/1.1", host=host))[0] == 200


def test_slow_header(server):
    head = raw(server, "GET /health HTTP/1.1")
    with connected(server) as client:
        start = time.monotonic()
        for byte in head[:10]:  # each byte in time
            client.sendall(bytes([byte]))
            time.sleep(0.1)
        status, answer = answer_to(client)
        assert 0.9 * REQUEST_SECONDS < time.monotonic() - start < 3 * REQUEST_SECONDS
    assert (status, answer["error"]) == (
        408,
        "the request took longer than 2 s to arrive",
    )


def test_slow_body(server):
    head = raw(
        server, "POST /search HTTP/1.1", "Content-Length: 99", "Content-Type: image/png"
    )
    status, _ = exchange(server, head, b"\x89PNG")
    assert status == 408


def test_slow_second_request_of_a_connection(server):
    with connected(server) as client:
        client.sendall(raw(server, "GET /health HTTP/1.1"))
        assert answer_to(client)[0] == 200
        client.sendall(b"GET /heal")
        assert answer_to(client)[0] == 408


def test_client_that_does_not_read(server):
    image = server.search(q="red", k=1).json["hits"][0]["image"]
    line = raw(server, f"GET {image}?size=large HTTP/1.1")
    with connected(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(ConnectionError, TimeoutError):
            client.settimeout(1)
            for _ in range(100):
                client.sendall(line)
        deadline = time.monotonic() + 10 * REQUEST_SECONDS
        while time.monotonic() < deadline:
            try:
                client.send(b"x")
            except ConnectionError:
                return  # the server has closed the connection
            except TimeoutError:
                pass
            time.sleep(0.2)
    pytest.fail("the connection is still open")


def test_clients_that_leave(server):
    for number in range(60):
        with connected(server) as client:
            words = SLOW if number == 0 else "red"
            client.sendall(raw(server, f"GET /search?q={words} HTTP/1.1"))
            linger = struct.pack("ii", 1, 0)  # the end is a reset
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def test_too_many_connections(server):
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(connected(server))
            for _ in range(MAXIMUM_CONNECTIONS + 1)
        ]
        status, answer = answer_to(clients[-1])
        assert (status, answer["error"][:20]) == (503, "too many connections")
    time.sleep(0.2)


def test_failure_of_one_query_fails_no_other(server):
    with contextlib.ExitStack() as stack:
        words = [SLOW, "red", FAILING, "green", FAILING, "blue"]
        connections = [
            stack.enter_context(contextlib.closing(server.connect())) for _ in words
        ]
        for connection, word in zip(connections, words, strict=True):
            connection.request("GET", f"/search?q={word}&k=1")
            time.sleep(0.05)  # the others wait while the slow query is answered
        answers = [served.answer_of(connection) for connection in connections]
    assert [answer.status for answer in answers] == [200, 200, 500, 200, 500, 200]
    assert answers[2].error == "the server failed to answer; its log says where"
    for word, answer in zip(words, answers, strict=True):
        if word in COLORS:
            assert answer.json["hits"][0]["id"] == id_of(word)


def test_websocket_is_not_spoken(server):
    line = raw(
        server, "GET /health HTTP/1.1", "Connection: upgrade", "Upgrade: websocket"
    )
    assert exchange(server, line)[0] == 200


def test_requests_that_do_not_wait_for_answers(server):
    line = raw(server, "GET /search?q=red&k=1 HTTP/1.1")
    with connected(server) as client:
        client.sendall(5 * line)
        received = io.BytesIO()
        while received.getvalue().count(b'"hits"') < 5:
            received.write(client.recv(2**16))
    assert received.getvalue().count(b"HTTP/1.1 200 OK") == 5
