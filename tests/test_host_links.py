"""Links of three hosts, each of which is an object of one process here."""

import contextlib
import socket
import threading
import time

import pytest

from vse_jax import host_links
from vse_jax.host_links import HostGoneError, HostLink, PrimaryLinks
from vse_jax.host_proxy import Proxy

PROMPTLY = 5.0  # seconds


class Ends:
    """Records the messages with which hosts end, by the number of the host."""

    def __init__(self):
        self.messages = {}
        self._changed = threading.Condition()

    def of(self, number):
        def end(message):
            with self._changed:
                self.messages[number] = message
                self._changed.notify_all()
            threading.Event().wait()  # the process would end here

        return end

    def wait_for(self, *numbers):
        with self._changed:
            everyone = self._changed.wait_for(
                lambda: set(numbers) <= self.messages.keys(), PROMPTLY
            )
        assert everyone, self.messages


@pytest.fixture
def ends():
    return Ends()


@pytest.fixture
def links(ends):
    """The links of hosts 0, 1 and 2."""
    primary = PrimaryLinks(3, ends.of(0))
    accepting = threading.Thread(target=primary.accept)
    accepting.start()
    others = [
        HostLink("127.0.0.1", primary.invitation, number, ends.of(number))
        for number in (1, 2)
    ]
    accepting.join(PROMPTLY)
    return [primary, *others]


def kill(link):
    """Closes the connection as the kernel does for a process that is killed."""
    connection = link._link._connection
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def test_hosts_finish_when_all_have_finished(links, ends):
    threads = [threading.Thread(target=link.finish) for link in links]
    for thread in threads[:2]:
        thread.start()
    threads[1].join(0.2)
    assert all(thread.is_alive() for thread in threads[:2])
    threads[2].start()
    for thread in threads:
        thread.join(PROMPTLY)
        assert not thread.is_alive()
    for link in links[1:]:
        kill(link)
    time.sleep(0.2)
    assert not ends.messages


@pytest.mark.parametrize("has_finished", [False, True])
def test_host_that_is_gone_is_named(links, ends, has_finished):
    """Even if it had finished: the others may still need it."""
    if has_finished:
        links[2]._link.send(finished=True)
    kill(links[2])
    ends.wait_for(0)
    name = f"host 2 ({host_links.this_process()})"
    assert ends.messages[0] == host_links.gone(2, host_links.this_process())
    assert ends.messages[0].startswith(f"{name} is gone: ")
    assert 1 not in ends.messages


def test_failure_is_printed_by_the_primary_host_alone(links, ends):
    report = threading.Thread(target=links[2].report, args=["a file is invalid"])
    report.daemon = True
    report.start()
    ends.wait_for(0)
    assert ends.messages[0] == "a file is invalid"
    links[0].dismiss()
    ends.wait_for(1, 2)
    assert ends.messages[1] == ends.messages[2] == ""


def test_others_name_the_primary_host_if_it_is_gone(links, ends):
    for link in links[0]._links.values():
        link._connection.shutdown(socket.SHUT_RDWR)
    ends.wait_for(1, 2)
    expected = host_links.gone(0, host_links.this_process())
    assert ends.messages[1] == ends.messages[2] == expected


def test_stranger_is_no_host(ends):
    primary = PrimaryLinks(2, ends.of(0))
    accepting = threading.Thread(target=primary.accept)
    accepting.start()
    port = primary.invitation.split()[0]
    for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"token": "guessed", "number": 1}\n'):
        with socket.create_connection(("127.0.0.1", int(port))) as stranger:
            stranger.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert not stranger.recv(1)
    HostLink("127.0.0.1", primary.invitation, 1, ends.of(1))
    accepting.join(PROMPTLY)
    assert not accepting.is_alive()
    assert not ends.messages


def test_host_that_never_links_is_named(ends, monkeypatch):
    monkeypatch.setattr(host_links, "_WELCOME_SECONDS", 0.1)
    primary = PrimaryLinks(2, ends.of(0))
    with pytest.raises(HostGoneError, match="host 1 is gone"):
        primary.accept()
    with pytest.raises(HostGoneError, match="host 0 is gone"):
        HostLink("127.0.0.1", primary.invitation, 1, ends.of(1))


def connected_by_proxy(lost):
    """Returns both ends of a connection; the event is set when the service is lost."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(*server.getsockname(), on_loss=lost.set)
        host, port = proxy.address.split(":")
        client = socket.create_connection((host, int(port)))
        service, _ = server.accept()
    return client, service


def test_proxy_outlives_what_it_is_connected_to():
    lost = threading.Event()
    client, service = connected_by_proxy(lost)
    client.sendall(b"question")
    assert service.recv(100) == b"question"
    service.sendall(b"answer")
    assert client.recv(100) == b"answer"
    assert not lost.is_set()
    service.close()
    assert lost.wait(PROMPTLY)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):  # it is open, and nothing comes
        client.recv(1)


def test_proxy_closes_with_its_client():
    lost = threading.Event()
    client, service = connected_by_proxy(lost)
    client.close()
    service.settimeout(PROMPTLY)
    assert not service.recv(1)
    assert not lost.wait(0.2)
