"""Names under which a server is asked, by which web pages of others are refused."""

import asyncio
import socket

import pytest

from vse_jax.serving.guard import Guard


def status(served, asked):
    """Returns the status of a request that names a host."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", asked.encode())],
    }
    asyncio.run(Guard(app, served)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize("served", ["127.0.0.1", "localhost", "::1"])
@pytest.mark.parametrize("port", ["", ":8000", ":1"])
def test_own_machine(served, port):
    for name in ("127.0.0.1", "localhost", "LocalHost", "localhost.", "[::1]"):
        assert status(served, name + port) == 200
    for name in ("example.org", "10.0.0.1", "[::2]", "", "localhost.example.org"):
        assert status(served, name + port) == 421


def test_one_address():
    assert status("10.0.0.1", "10.0.0.1:8000") == 200
    assert status("photos.lan", "Photos.lan:8000") == 200
    assert status("fe80::1", "[fe80::1]:8000") == 200
    for other in ("10.0.0.2", "photos.lan", "10.0.0.1.example.org"):
        assert status("10.0.0.1", other) == 421


@pytest.mark.parametrize("served", ["0.0.0.0", "::"])
def test_all_addresses(served):
    for name in ("192.168.7.7:8000", "[fe80::1]", socket.gethostname(), "localhost:1"):
        assert status(served, name) == 200
    for name in ("example.org", "1.2.3.4.example.org", "[::1].org", "::1::", "0x7f.1"):
        assert status(served, name) == 421
