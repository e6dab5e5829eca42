"""Links of three hosts, each of which is an object of one process here."""

import contextlib
import socket
import threading
import time
from concurrent import futures

import pytest

from vse_jax import host_links
from vse_jax.errors import InputError
from vse_jax.host_links import HostLink, MissingHostError, PrimaryLinks
from vse_jax.host_proxy import Proxy

PROMPTLY = 5.0  # seconds


class Ends:
    """Records the messages with which hosts end, by the number of the host."""

    def __init__(self):
        self.messages, self.codes = {}, {}
        self._changed = threading.Condition()

    def of(self, number):
        def end(message, code):
            with self._changed:
                self.messages[number] = message
                self.codes[number] = code
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


def linked(primary, ends, numbers, timeout=PROMPTLY):
    """Returns the links of the other hosts, once all hosts are linked."""
    of = max(numbers) + 1
    with futures.ThreadPoolExecutor(len(numbers) + 1) as pool:
        accepted = pool.submit(primary.accept, timeout)
        others = [
            pool.submit(HostLink, primary.address, number, of, timeout, ends.of(number))
            for number in numbers
        ]
        accepted.result(2 * PROMPTLY)
        return [other.result(PROMPTLY) for other in others]


@pytest.fixture
def links(ends):
    """The links of hosts 0, 1 and 2."""
    primary = PrimaryLinks(3, 0, ends.of(0))
    return [primary, *linked(primary, ends, (1, 2))]


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
    report = threading.Thread(target=links[2].report, args=["a file is invalid", 143])
    report.daemon = True
    report.start()
    ends.wait_for(0)
    assert ends.messages[0] == "a file is invalid"
    links[0].dismiss(143)
    ends.wait_for(1, 2)
    assert ends.messages[1] == ends.messages[2] == ""
    assert ends.codes == {0: 143, 1: 143, 2: 143}


def test_others_name_the_primary_host_if_it_is_gone(links, ends):
    for link in links[0]._links.values():
        link._connection.shutdown(socket.SHUT_RDWR)
    ends.wait_for(1, 2)
    expected = host_links.gone(0, host_links.this_process())
    assert ends.messages[1] == ends.messages[2] == expected


STRANGERS = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"[1]\n",
    b'{"number": [1], "of": 2, "name": "stranger"}\n',
)


def test_stranger_is_no_host(ends):
    primary = PrimaryLinks(2, 0, ends.of(0))

    def bother():
        for said in STRANGERS:
            with socket.create_connection(primary.address) as stranger:
                stranger.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    assert not stranger.recv(1)

    with futures.ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(primary.accept, PROMPTLY)
        bother()
        HostLink(primary.address, 1, 2, PROMPTLY, ends.of(1))
        accepted.result(PROMPTLY)
    assert not ends.messages


@pytest.mark.parametrize(
    ("number", "of", "expected"),
    [(1, 3, "expects 2 processes, not 3"), (0, 2, "another process with num")],
)
def test_unexpected_host_is_refused(ends, number, of, expected, caplog):
    """The primary host says so too, since it still waits for another one."""
    caplog.set_level("INFO")
    primary = PrimaryLinks(2, 0, ends.of(0))
    with futures.ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(primary.accept, PROMPTLY)
        with pytest.raises(MissingHostError, match=expected):
            HostLink(primary.address, number, of, PROMPTLY, ends.of(number))
        HostLink(primary.address, 1, 2, PROMPTLY, ends.of(1))
        accepted.result(PROMPTLY)
    assert expected in caplog.text


def test_host_that_waits_in_vain_says_whom_it_refused(ends):
    primary = PrimaryLinks(2, 0, ends.of(0))
    with futures.ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(primary.accept, 1.0)
        with pytest.raises(MissingHostError):
            HostLink(primary.address, 1, 3, PROMPTLY, ends.of(1))
        expected = "host 1 of 2 .* was refused: host 0 expects 2 processes, not 3"
        with pytest.raises(MissingHostError, match=expected):
            accepted.result(PROMPTLY)


@pytest.mark.parametrize("command", [{"--mode": "train"}, None])
def test_host_of_another_command_ends_all(ends, command):
    """A host without a command has a mistake in it, and says so itself."""
    primary = PrimaryLinks(3, 0, ends.of(0), {"--mode": "train"})
    started = {1: {"--mode": "train"}, 2: {"--mode": "eval"} if command else None}
    with futures.ThreadPoolExecutor(3) as pool:
        accepted = pool.submit(primary.accept, PROMPTLY)
        for number, own in started.items():
            options = number, 3, PROMPTLY, ends.of(number), own
            threading.Thread(
                target=HostLink, args=(primary.address, *options), daemon=True
            ).start()
        if command is None:
            accepted.result(PROMPTLY)
            return
        with pytest.raises(InputError, match="host 2 was started with --mode=eval"):
            accepted.result(PROMPTLY)
    primary.dismiss(2)
    ends.wait_for(1, 2)
    assert ends.codes == {1: 2, 2: 2}


def test_hosts_that_do_not_start_are_named(ends, monkeypatch, caplog):
    """The log names them meanwhile; the host that has started ends too."""
    monkeypatch.setattr(host_links, "SECONDS_BETWEEN_LINES", 0.2)
    caplog.set_level("INFO")
    primary = PrimaryLinks(4, 0, ends.of(0))
    arguments = primary.address, 2, 4, PROMPTLY, ends.of(2)
    threading.Thread(target=HostLink, args=arguments, daemon=True).start()
    with pytest.raises(
        MissingHostError, match=r"hosts 1 and 3 of 4 did not answer within 0\.9 s"
    ):
        primary.accept(timeout=0.9)
    assert any("waiting for hosts 1 and 3 of 4" in text for text in caplog.messages)
    primary.dismiss(2)
    ends.wait_for(2)
    assert ends.messages[2] == ""


def test_primary_host_that_does_not_start_is_named(ends):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    expected = rf"host 0 at 127.0.0.1:{address[1]} did not answer within 0.1 s: Conn"
    with pytest.raises(MissingHostError, match=expected):
        HostLink(address, 1, 2, 0.1, ends.of(1))


def test_host_that_dies_before_all_have_started_is_named(ends):
    primary = PrimaryLinks(3, 0, ends.of(0))
    with futures.ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(primary.accept, 1.0)
        with socket.create_connection(primary.address) as host:
            host.sendall(b'{"number": 1, "of": 3, "name": "worker"}\n')
            time.sleep(0.2)
        ends.wait_for(0)
        with pytest.raises(MissingHostError, match="host 2 of 3 did not answer"):
            accepted.result(PROMPTLY)
    assert ends.messages[0] == host_links.gone(1, "worker")


def connected_by_proxy():
    """Returns both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(*server.getsockname())
        host, port = proxy.address.split(":")
        client = socket.create_connection((host, int(port)))
        service, _ = server.accept()
    return client, service


def test_proxy_outlives_what_it_is_connected_to():
    client, service = connected_by_proxy()
    client.sendall(b"question")
    assert service.recv(100) == b"question"
    service.sendall(b"answer")
    assert client.recv(100) == b"answer"
    service.close()
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):  # it is open, and nothing comes
        client.recv(1)


def test_proxy_closes_with_its_client():
    client, service = connected_by_proxy()
    client.close()
    service.settimeout(PROMPTLY)
    assert not service.recv(1)
