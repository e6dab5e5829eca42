import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from etils import epath

from tests import programs
from vse_jax import host_connection, host_links, run_lock, termination
from vse_jax.errors import InputError

HOLDER = """
    import sys, time
    from vse_jax import run_lock

    with run_lock.sole_run(sys.argv[1]):
        print("locked", flush=True)
        time.sleep(60)
"""


def hold(workdir):
    """Starts another process that locks the workdir."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(workdir)],
        cwd=programs.REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_second_run_is_refused_and_the_first_is_named(tmp_path):
    holder = hold(tmp_path / "run")
    with pytest.raises(InputError) as error, run_lock.sole_run(tmp_path / "run"):
        pass
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'run'} is in use by another run: ")
    assert f"process {holder.pid} on {socket.gethostname()} since 20" in message
    holder.kill()
    holder.wait()


def test_killed_run_releases_the_workdir(tmp_path):
    holder = hold(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / run_lock.LOCK_FILE).exists()
    with run_lock.sole_run(tmp_path):
        owner = json.loads((tmp_path / run_lock.LOCK_FILE).read_text())
        assert owner["pid"] == os.getpid()


def test_nothing_is_left_behind(tmp_path):
    with run_lock.sole_run(tmp_path / "run"):
        assert (tmp_path / "run" / run_lock.LOCK_FILE).exists()
    assert not os.listdir(tmp_path)


def test_full_disk_is_reported(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_lock.os, "write", write)
    with (
        pytest.raises(InputError, match=r"No space left on device.*another --workdir"),
        run_lock.sole_run(tmp_path / "run"),
    ):
        pass
    assert not os.listdir(tmp_path)


def test_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="choose another --workdir"),
        run_lock.sole_run(tmp_path / "file" / "run"),
    ):
        pass


# A lease is for file systems without locks, such as object stores.


@pytest.fixture
def lease(tmp_path, monkeypatch):
    """Path of a lease that is stale after one second."""
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(run_lock, "_RENEW_SECONDS", 0.2)
    monkeypatch.setattr(run_lock, "_POLL_SECONDS", 0.1)
    return tmp_path / "run.lease"


def test_lease_is_renewed_and_removed(lease):
    with run_lock._lease(lease):
        first = json.loads(lease.read_text())
        time.sleep(1)
        later = json.loads(lease.read_text())
        assert later["token"] == first["token"]
        assert later["renewals"] > first["renewals"]
        assert later["pid"] == os.getpid()
    assert not lease.exists()


def test_renewed_lease_is_refused(lease):
    with (
        run_lock._lease(lease),
        pytest.raises(
            InputError, match=f"in use by another run: process {os.getpid()}"
        ),
        run_lock._lease(lease),
    ):
        pass


def write_lease(lease, **owner):
    content = {"host": "elsewhere", "pid": 1, "since": "then", "token": "x"} | owner
    lease.write_text(json.dumps(content | {"renewals": 3}))


def test_stale_lease_of_another_host_is_taken_over(lease):
    write_lease(lease)
    begin = time.monotonic()
    with run_lock._lease(lease):
        assert time.monotonic() - begin > 1
        assert json.loads(lease.read_text())["pid"] == os.getpid()


def test_lease_of_an_ended_process_of_this_host_is_free_at_once(lease):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host, boot = socket.gethostname(), run_lock._boot()
    write_lease(lease, host=host, boot=boot, pid=process.pid)
    begin = time.monotonic()
    with run_lock._lease(lease):
        assert time.monotonic() - begin < 0.9


def test_damaged_lease_becomes_stale(lease):
    lease.write_text('{"host": "else')
    with run_lock._lease(lease):
        assert json.loads(lease.read_text())["pid"] == os.getpid()


def test_workdir_with_results_stays(tmp_path):
    with run_lock.sole_run(tmp_path / "run"):
        (tmp_path / "run" / "result").write_text("")
    assert os.listdir(tmp_path / "run") == ["result"]


class Links(host_links.PrimaryLinks):
    """Links to other hosts, which note with what code these are dismissed."""

    def __init__(self):
        self.codes = []

    def dismiss(self, code):
        self.codes.append(code)


def test_run_whose_lease_was_taken_over_ends_on_all_hosts(monkeypatch, capsys):
    """The others would say that this process was killed, or its machine stopped."""
    links, codes = Links(), []
    monkeypatch.setattr(host_connection, "_links", links)
    monkeypatch.setattr(host_connection, "_failing", threading.Lock())
    monkeypatch.setattr(termination, "exit_now", codes.append)
    owner = {"pid": 7, "host": "other", "since": "noon"}
    run_lock._end_this_run(epath.Path("gs://bucket/run/run.lease"), owner)
    assert links.codes == codes == [2]
    assert capsys.readouterr().err.startswith(
        "error: gs://bucket/run is in use by another run: process 7 on other since noon"
    )
