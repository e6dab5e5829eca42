"""Four processes, connected over the loopback interface, without a whole run."""

import signal
import time

import jax
import numpy as np
import pytest

from tests import host_program, programs
from tests.host_processes import Hosts, assert_named, finish_all, kill_one
from tests.test_checkpoint import RUN, make_state
from vse_jax.checkpoint import Checkpoints


def hosts_of(name, folder, count, devices=1):
    """Returns the hosts that run a function of `host_program`."""

    # TensorFlow would print a notice on standard error.
    environment = programs.environment(devices) | {"TF_ENABLE_ONEDNN_OPTS": "0"}

    def start(*options):
        values = [option.partition("=")[2] for option in options]
        arguments = ["-m", "tests.host_program", name, folder, *values]
        return programs.start_python(*arguments, env=environment)

    return Hosts(start, count)


def started(name, folder, text, count=4):
    """Starts hosts; returns when the first one has printed `text`."""
    processes = hosts_of(name, folder, count).start()
    assert any(text in line for line in processes[0].stdout)
    return processes


@pytest.fixture(scope="module")
def of_one_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vse_jax.models.kernels.packed_gru.PACKED_PARTS", 1)
        return host_program.steps(jax.devices()[:4])


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_hosts_make_the_steps_of_one(tmp_path, of_one_process, count):
    """The four devices belong to two or four processes, or to one."""
    for host in hosts_of("train", tmp_path, count, devices=4 // count).run():
        assert host.returncode == 0, host.stderr
    found, expected = np.load(tmp_path / "results.npz"), of_one_process
    assert found.keys() == expected.keys()
    assert expected["losses"][0] > 0.05
    assert expected["losses"][-1] < 0.95 * expected["losses"][0]
    differences = {
        name: np.abs(found[name] - expected[name]).max()
        / max(1, np.abs(expected[name]).max())
        for name in expected
    }
    drift = differences.pop("losses")
    print(f"{count} hosts: 1 step {max(differences.values()):.1e}, 20 {drift:.1e}")
    assert max(differences.values()) < 1e-5, differences
    assert drift < 1e-3


def test_host_killed_in_a_collective_is_named(tmp_path):
    processes = started("gather", tmp_path, "gathering")
    finished, seconds = kill_one(processes, 2)
    assert_named(finished, 2)
    assert seconds < 10


def test_primary_host_killed_while_others_wait_is_named(tmp_path):
    finished, seconds = kill_one(started("wait", tmp_path, "waiting"), 0)
    assert_named(finished, 0)
    assert seconds < 10


def test_failure_of_one_host_ends_all_with_one_line(tmp_path):
    """The others wait at a barrier."""
    finished = hosts_of("fail", tmp_path, 2).run()
    assert [host.returncode for host in finished] == [2, 2], finished
    assert finished[0].stderr == f"error: {tmp_path}: is missing\n"
    assert not finished[1].stderr


@pytest.fixture
def workdirs(tmp_path):
    """Folders with workdirs of two hosts, which differ in one way each."""
    for kind, seed, steps in (
        ("damaged", 0, (1, 2)),
        ("changed", 5, (1, 2)),
        ("older", 0, (1,)),
    ):
        save(tmp_path / kind / "0", 0, (1, 2))
        save(tmp_path / kind / "1", seed, steps)
    files = (tmp_path / "damaged" / "1" / "checkpoints" / "2" / "variables").rglob("*")
    largest = max(files, key=lambda path: path.is_file() and path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    return tmp_path


def save(workdir, seed, steps):
    checkpoints = Checkpoints(workdir)
    for step in steps:
        state = make_state(seed + step)
        checkpoints.save(state.replace(step=np.int32(step)), RUN)
    checkpoints.close()


def test_hosts_that_do_not_share_their_files_are_told_so(workdirs):
    """A host that fails alone does not stop the others within a collective."""
    finished = hosts_of("compare", workdirs, 2).run()
    assert [host.returncode for host in finished] == [0, 0], finished
    assert "Traceback" not in finished[0].stderr
    messages = finished[0].stdout.splitlines()
    assert finished[1].stdout == ""
    expected = [
        f"--workdir is {workdirs}/damaged/0, which is not the same on host 1",
        f"{workdirs}/damaged/0/checkpoints/2 cannot be read on host 1 (",
        f"checkpoint 2 in {workdirs}/changed/0/checkpoints is not the same on host 1",
        f"the list of checkpoints in {workdirs}/older/0/checkpoints is not the same",
        "the dataset prepared is not the same on host 1 as on host 0; set config.data",
    ]
    for message, start in zip(messages, expected, strict=True):
        assert message.startswith(start)
    assert not list(workdirs.rglob("incomplete.*"))


def test_signal_of_one_host_stops_all_at_one_step(tmp_path):
    processes = started("gather", tmp_path, "gathering")
    processes[3].send_signal(signal.SIGTERM)
    finished = finish_all(processes)
    assert [host.returncode for host in finished] == [0] * 4, finished[0].stderr
    steps = {(tmp_path / f"stopped_{number}").read_text() for number in range(4)}
    assert len(steps) == 1
    assert int(steps.pop()) > 0
    assert [host.stdout for host in finished] == [""] * 4  # one line was read before


def test_signal_between_two_trainings_stops_the_second(tmp_path):
    """Hosts agree on a number that no host has passed, and steps begin anew."""
    processes = started("two_trainings", tmp_path, "between trainings", count=2)
    processes[1].send_signal(signal.SIGTERM)
    time.sleep(2)  # until JAX's service has told both
    (tmp_path / "go").touch()
    finished = finish_all(processes)
    assert [host.returncode for host in finished] == [0, 0], finished[0].stderr
    stopped = {(tmp_path / f"stopped_{number}").read_text() for number in range(2)}
    assert len(stopped) == 1
    assert stopped.pop().startswith("1 ")
