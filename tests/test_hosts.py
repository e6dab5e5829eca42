"""Two processes, connected over the loopback interface, as two hosts of one run."""

import csv
import json
import signal
import socket
import subprocess

import numpy as np
import pytest

from configs import common
from tests import parity, photo_files, programs
from vse_jax import host_connection
from vse_jax.errors import InputError

STEPS = programs.STEPS_PER_EPOCH
# A model that compiles in seconds.
REGION_OPTIONS = ("--config.model.text_encoder=gru", "--config.epochs=1")
ATTEMPTS = 3  # another process may take a port that was free
PHOTO_OPTIONS = {
    "batch_size": 8,
    "epochs": 1,
    "evaluation_batch_size": 8,
    "log_every_steps": 1,
    "data.builder": "image_folder",
    "data.image_size": 32,
    "data.minimum_word_count": 1,
    "data.token_lengths": "(16,)",
    "extract.shard_megabytes": 0.02,
    "model.backbone.name": "stem",
    "model.embed_dim": 8,
    "model.text_encoder": "gru",
    "model.word_dim": 4,
}


class Hosts:
    """Starts the program once per host; each host has one device."""

    def __init__(self, start):
        """Takes a function that starts one process with further options."""
        self._start = start

    def start(self, *options, own_options=((), ())) -> list[subprocess.Popen]:
        """Starts both; `own_options` are those of each host alone."""
        address = f"127.0.0.1:{free_port()}"
        return [
            self._start(
                f"--config.coordinator={address}",
                "--config.num_processes=2",
                f"--config.process_id={number}",
                *options,
                *own,
            )
            for number, own in enumerate(own_options)
        ]

    def run(self, *options, **starting) -> list[programs.Finished]:
        """Runs both to their end."""
        for _ in range(ATTEMPTS):
            finished = finish_all(self.start(*options, **starting))
            if "cannot use its port" not in finished[0].stderr:
                return finished
        pytest.fail("no port stayed free")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish_all(processes):
    try:
        return [programs.finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def stop_second_after(processes, text):
    """Sends SIGTERM to the second host when the first has logged `text`."""
    assert any(text in line for line in processes[0].stderr)
    processes[1].send_signal(signal.SIGTERM)
    return finish_all(processes)


def assert_succeeded(finished):
    for host in finished:
        assert host.returncode == 0, host.stderr
    assert "step" not in finished[1].stdout + finished[1].stderr
    assert "metrics:" not in finished[1].stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


def start_with_regions(place):
    return lambda *options, **popen: place.start(*REGION_OPTIONS, *options, **popen)


@pytest.fixture(scope="module")
def reference(place):
    """The workdir of a run on two devices of one process."""
    workdir = place.workdir("of_one_host")
    start = start_with_regions(place)
    finished = programs.finish(start(f"--workdir={workdir}", devices=2))
    assert finished.returncode == 0, finished.stderr
    return workdir


def test_stopped_and_resumed_run_of_two_hosts_ends_as_that_of_one(place, reference):
    workdir = place.workdir("of_two_hosts")
    hosts = Hosts(start_with_regions(place))

    stopped = stop_second_after(hosts.start(f"--workdir={workdir}"), "step 7/")
    assert [host.returncode for host in stopped] == [143, 143], stopped[0].stderr
    step = programs.checkpoint_steps(workdir)[0]
    assert 7 <= step < STEPS
    assert f"stopped by SIGTERM after step {step}" in stopped[0].stderr

    resumed = hosts.run(f"--workdir={workdir}")
    assert_succeeded(resumed)
    assert f"resuming from the checkpoint of step {step}\n" in resumed[0].stderr
    # Equal bit for bit: parameters, statistics, the optimizer's moments, and loss and
    # gradient norm of every step. Two addends have one sum, whatever their order.
    programs.assert_same_run(workdir, reference, STEPS)
    run = programs.restored(workdir, STEPS).run
    assert run["config"]["coordinator"] == ""
    assert run["config"]["process_id"] == -1


def test_two_hosts_evaluate_as_one(place, reference):
    """The checkpoint and the report are those of one process."""
    report = reference / "eval" / "test.json"
    expected = json.loads(report.read_text())
    report.unlink()
    hosts = Hosts(start_with_regions(place))
    finished = hosts.run("--mode=eval", f"--workdir={reference}")
    assert_succeeded(finished)
    found = json.loads(report.read_text())
    assert found["metrics"] == expected["metrics"]
    assert f"{'rSum':15}{found['metrics']['rsum']:7.1f}" in finished[0].stdout


def test_run_whose_optimizer_is_split_over_two_hosts_is_resumed_on_one(
    place, reference
):
    """The checkpoint has the whole state, also what the other host had."""
    workdir = place.workdir("of_split_optimizer")
    hosts = Hosts(start_with_regions(place))
    stopped = stop_second_after(
        hosts.start(f"--workdir={workdir}", "--config.optimizer.sharded"), "step 7/"
    )
    assert [host.returncode for host in stopped] == [143, 143], stopped[0].stderr
    start = start_with_regions(place)
    finished = programs.finish(start(f"--workdir={workdir}", devices=2))
    assert finished.returncode == 0, finished.stderr
    found, expected = (
        programs.restored(folder, STEPS).variables["params"]
        for folder in (workdir, reference)
    )
    # The norm of the gradient, by which it is clipped, is rounded differently.
    parity.assert_trees_close(found, expected, atol=1e-5)


def test_failure_of_one_host_ends_both_with_one_line(place):
    finished = Hosts(place.start).run(
        f"--workdir={place.workdir('failing')}",
        own_options=((), ["--config.loss.mining=unknown"]),
    )
    assert [host.returncode for host in finished] == [2, 2]
    error = programs.refusal(finished[0])
    assert error.startswith("error: config.loss.mining is 'unknown', expected one of")
    assert "error" not in finished[1].stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of different sizes, in a folder with their captions."""
    root = tmp_path_factory.mktemp("photos") / "root"
    root.mkdir()
    rng = np.random.default_rng(0)
    with (root / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for split, images in {"train": 24, "dev": 9, "test": 9}.items():
            for number in range(images):
                name = f"{split}_{number}.jpg"
                photo = photo_files.drawn(*rng.integers(40, 70, 2), seed=number)
                (root / name).write_bytes(photo_files.encoded(photo))
                for _ in range(2):
                    words = rng.choice(programs.WORDS, rng.integers(2, 6))
                    rows.writerow([name, " ".join(words), split])
    return root


def start_with_photos(photos):
    config = programs.REPOSITORY / "configs" / "common.py"
    folders = {"data.root": photos, "data.data_dir": photos.parent / "data"}

    def start(*options, devices=1):
        given = PHOTO_OPTIONS | folders
        return programs.start(
            f"--config={config}",
            *(f"--config.{name}={value}" for name, value in given.items()),
            *options,
            devices=devices,
        )

    return start


def test_two_hosts_extract_the_features_of_one(photos):
    start = start_with_photos(photos)
    workdirs = [photos.parent / "runs" / name for name in ("alone", "together")]
    # As many photos at once as each host takes, or float16 may round otherwise.
    options = ("--mode=extract", "--config.evaluation_batch_size=4")
    one = programs.finish(start(*options, f"--workdir={workdirs[0]}"))
    assert one.returncode == 0, one.stderr
    finished = Hosts(start).run("--mode=extract", f"--workdir={workdirs[1]}")
    assert [host.returncode for host in finished] == [0, 0], finished[1].stderr
    expected, found = (programs.files(workdir / "features") for workdir in workdirs)
    shards = [name for name in expected if "array_record" in name]
    assert len(shards) > 3
    assert [found[name] for name in shards] == [expected[name] for name in shards]
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "10.0.0.1"}, "config.coordinator is '10.0.0.1', expected"),
        ({"coordinator": "a b:1"}, "config.coordinator is 'a b:1', expected host:port"),
        ({"coordinator": "host:70000"}, "expected host:port of process 0"),
        ({"coordinator": ":8476"}, "expected host:port of process 0"),
        ({"coordinator": "host:8476"}, "config.num_processes is 0, expected"),
        (
            {"coordinator": "host:8476", "num_processes": 2},
            "config.process_id is -1, expected 0 to 1",
        ),
        (
            {"coordinator": "[::1]:8476", "num_processes": 2, "process_id": 2},
            "config.process_id is 2, expected 0 to 1",
        ),
        ({"num_processes": 2}, "need config.coordinator"),
        ({"process_id": 0, "distributed": True}, "need config.coordinator"),
    ],
)
def test_connection_options_are_checked(options, message):
    config = common.get_config()
    config.update(options)
    with pytest.raises(InputError) as error:
        host_connection.check_options(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_valid_connection_options_pass():
    config = common.get_config()
    host_connection.check_options(config)
    for address in ("localhost:1", "[::1]:8476", "10.0.0.1:65535"):
        config.update({"coordinator": address, "num_processes": 2, "process_id": 1})
        host_connection.check_options(config)


def connecting(**options):
    config = common.get_config()
    config.update({"num_processes": 2, "process_id": 0} | options)
    return lambda: host_connection.connect(config, preemptible=False)


def test_port_in_use_is_reported():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="process 0 cannot use its port"):
            connecting(coordinator=f"127.0.0.1:{port}")()


def test_unknown_host_is_reported():
    with pytest.raises(InputError, match=r"no-such-host\.invalid has no address"):
        connecting(coordinator="no-such-host.invalid:8476", process_id=1)()


def test_host_that_waits_in_vain_says_so():
    program = (
        "from configs import common\n"
        "from vse_jax import host_connection\n"
        "host_connection.CONNECTION_TIMEOUT = 1\n"
        "config = common.get_config()\n"
        f"config.coordinator = '127.0.0.1:{free_port()}'\n"
        "config.num_processes, config.process_id = 2, 0\n"
        "host_connection.connect(config, preemptible=False)\n"
    )
    process = programs.start_python("-c", program)
    error = programs.refusal(programs.finish(process))
    assert "2 processes cannot be connected (not all of them answered within 1" in error
