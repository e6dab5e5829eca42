"""Two processes, connected over the loopback interface, as two hosts of one run."""

import json
import math
import shutil
import signal
import socket
import time

import pytest

from configs import common
from tests import parity, programs
from tests.host_processes import (
    SECONDS_TO_EXIT,
    Hosts,
    assert_named,
    finish_all,
    free_port,
    kill_one,
    photo_folder,
    with_photos,
    with_regions,
)
from vse_jax import host_connection
from vse_jax.errors import InputError

STEPS = programs.STEPS_PER_EPOCH


def stop_second_after(processes, text):
    """Sends SIGTERM to the second host when the first has logged `text`."""
    assert any(text in line for line in processes[0].stderr)
    processes[1].send_signal(signal.SIGTERM)
    return finish_all(processes)


def assert_succeeded(finished):
    for host in finished:
        assert host.returncode == 0, host.stderr
    assert not finished[1].stdout + finished[1].stderr
    assert "Gloo" not in finished[0].stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def reference(place):
    """The workdir of a run on two devices of one process."""
    workdir = place.workdir("of_one_host")
    start = with_regions(place)
    finished = programs.finish(start(f"--workdir={workdir}", devices=2))
    assert finished.returncode == 0, finished.stderr
    return workdir


def test_disturbed_run_ends_as_an_undisturbed_one(place, reference):
    """Stopped, resumed as one process, killed on two hosts, with a damaged checkpoint.

    Equal bit for bit: parameters, statistics, the optimizer's moments, and loss and
    gradient norm of every step. Two addends have one sum, whatever their order.
    """
    workdir = place.workdir("disturbed")
    hosts = Hosts(with_regions(place))

    step = stop_on_two_hosts(hosts, workdir, "step 4/")
    step = stop_on_one_host(place, workdir, step)
    step = kill_second_host(hosts, workdir, step)
    damaged = damage(workdir)
    last = hosts.run(f"--workdir={workdir}")
    assert_succeeded(last)
    assert f"{damaged} is damaged" in last[0].stderr
    assert f"moved {damaged} to" in last[0].stderr
    assert not last[1].stderr
    programs.assert_same_run(workdir, reference, STEPS)
    run = programs.restored(workdir, STEPS).run
    assert run["config"]["coordinator"] == ""
    assert run["config"]["process_id"] == -1


def stop_on_two_hosts(hosts, workdir, text):
    """The second host receives SIGTERM; both save the same step."""
    stopped = stop_second_after(hosts.start(f"--workdir={workdir}"), text)
    assert [host.returncode for host in stopped] == [143, 143], stopped[0].stderr
    step = programs.checkpoint_steps(workdir)[0]
    assert 4 <= step < STEPS
    assert f"stopped by SIGTERM after step {step}" in stopped[0].stderr
    return step


def stop_on_one_host(place, workdir, step):
    """The run of two hosts is resumed as one process with two devices."""
    process = with_regions(place)(f"--workdir={workdir}", devices=2)
    stopped = programs.stop_after(process, f"step {step + 2}/", signal.SIGTERM)
    assert stopped.returncode == 143, stopped.stderr
    assert f"resuming from the checkpoint of step {step}\n" in stopped.stderr
    return programs.checkpoint_steps(workdir)[0]


def kill_second_host(hosts, workdir, step):
    """The run of one process is resumed by two hosts, one of which is killed."""
    processes = hosts.start(f"--workdir={workdir}")
    before = [next(line for line in processes[0].stderr if "resuming" in line)]
    assert f"of step {step}\n" in before[0]
    text = f"step {step + 5 - step % 5 + 1}/"  # a save has begun before
    assert any(text in line for line in processes[0].stderr)
    finished, seconds = kill_one(processes, 1)
    assert_named(finished, 1)
    assert seconds < SECONDS_TO_EXIT
    return step


def damage(workdir):
    """Truncates the largest file of the latest checkpoint; returns its folder."""
    folder = workdir / "checkpoints" / str(programs.checkpoint_steps(workdir)[0])
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    return folder


def test_two_hosts_share_the_features_in_device_memory(place, reference):
    workdir = place.workdir("of_two_hosts_resident")
    hosts = Hosts(with_regions(place))
    finished = hosts.run(f"--workdir={workdir}", "--config.data.device_resident=True")
    assert_succeeded(finished)
    assert "the features of 40 images are in the devices' memory" in finished[0].stderr
    programs.assert_same_run(workdir, reference, STEPS)


def test_two_hosts_evaluate_as_one(place, reference):
    """The checkpoint and the report are those of one process."""
    report = reference / "eval" / "test.json"
    expected = json.loads(report.read_text())
    report.unlink()
    hosts = Hosts(with_regions(place))
    finished = hosts.run("--mode=eval", f"--workdir={reference}")
    assert_succeeded(finished)
    found = json.loads(report.read_text())
    assert found["metrics"] == expected["metrics"]
    assert f"{'rSum':15}{found['metrics']['rsum']:7.1f}" in finished[0].stdout


@pytest.mark.slow
def test_two_hosts_train_several_seeds(place, reference):
    """The second one is the run that is made alone, bit for bit."""
    workdir = place.workdir("of_two_hosts_seeds")
    hosts = Hosts(with_regions(place))
    finished = hosts.run(f"--workdir={workdir}", "--seeds=1,0")
    assert_succeeded(finished)
    seed = workdir.with_name(f"{workdir.name}_seed0")
    programs.assert_same_run(seed, reference, STEPS)
    assert finished[0].stdout.count("mean of 2 seeds") == 1
    summary = workdir.with_name(f"{workdir.name}_seeds_test.json")
    first, second = json.loads(summary.read_text())["runs"]
    assert (first["seed"], second["seed"]) == (1, 0)
    expected = json.loads((reference / "eval" / "test.json").read_text())
    assert second["metrics"] == expected["metrics"] != first["metrics"]


def test_metrics_that_cannot_be_read_end_both_with_one_line(place, reference):
    workdir = place.workdir("unreadable_metrics")
    shutil.copytree(reference, workdir)
    metrics = workdir / "checkpoints" / str(STEPS) / "metrics" / "metrics"
    metrics.write_text("{")
    finished = Hosts(with_regions(place)).run("--mode=eval", f"--workdir={workdir}")
    assert [host.returncode for host in finished] == [2, 2]
    assert programs.refusal(finished[0]).startswith(f"error: {metrics} is damaged")
    assert not finished[1].stderr


def test_one_of_two_hosts_prepares(place, tmp_path):
    options = "--mode=prepare", f"--config.data.data_dir={tmp_path}"
    finished = Hosts(place.start).run(*options)
    assert [host.returncode for host in finished] == [0, 0], finished[1].stderr
    assert finished[0].stdout.startswith(f"prepared: {tmp_path}")
    assert not finished[1].stdout + finished[1].stderr


@pytest.mark.slow
def test_run_whose_optimizer_is_split_over_two_hosts_is_resumed_on_one(
    place, reference
):
    """The checkpoint has the whole state, also what the other host had."""
    workdir = place.workdir("of_split_optimizer")
    hosts = Hosts(with_regions(place))
    stopped = stop_second_after(
        hosts.start(f"--workdir={workdir}", "--config.optimizer.sharded"), "step 7/"
    )
    assert [host.returncode for host in stopped] == [143, 143], stopped[0].stderr
    finished = programs.finish(with_regions(place)(f"--workdir={workdir}", devices=2))
    assert finished.returncode == 0, finished.stderr
    found, expected = (
        programs.restored(folder, STEPS).variables["params"]
        for folder in (workdir, reference)
    )
    # The norm of the gradient, by which it is clipped, is rounded differently.
    parity.assert_trees_close(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "moment", ["parameters:", pytest.param("compiling ", marks=pytest.mark.slow)]
)
def test_signal_before_the_first_step_ends_both_with_its_exit_code(place, moment):
    workdir = place.workdir(f"stopped_at_{moment[:4]}")
    processes = Hosts(place.start).start(
        f"--workdir={workdir}",
        "--config.model.embed_dim=1024",  # compiles for many seconds
        f"--config.compilation_cache={workdir}/cache",
    )
    finished = stop_second_after(processes, moment)
    assert [host.returncode for host in finished] == [143, 143], finished
    lines = finished[0].stderr.splitlines()
    assert lines[-1] == (
        "stopped by SIGTERM on host 1 before the first step; run the same command on "
        "every host to resume"
    )
    assert finished[1].stderr == "SIGTERM: leaving before the first step\n"
    assert "Traceback" not in finished[0].stderr


def test_host_with_another_option_ends_both_with_one_line(place):
    """Its parameters would drift apart from those of the other host."""
    finished = Hosts(place.start).run(
        f"--workdir={place.workdir('different')}",
        own_options=((), ["--config.optimizer.learning_rate=0.25"]),
    )
    assert [host.returncode for host in finished] == [2, 2], finished
    assert programs.refusal(finished[0]) == (
        "error: host 1 was started with --config.optimizer.learning_rate=0.25, host 0 "
        "with --config.optimizer.learning_rate=0.0005; start the same command on every "
        "host, except for config.process_id"
    )
    assert not finished[1].stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_folder(tmp_path_factory.mktemp("photos") / "root")


def test_two_hosts_extract_the_features_of_one(photos):
    start = with_photos(photos)
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
        ({"coordinator": "10.0.0.1"}, "config.coordinator is '10.0.0.1'; expected"),
        ({"coordinator": "a b:1"}, "config.coordinator is 'a b:1'; expected host:port"),
        ({"coordinator": "host:70000"}, "expected host:port of process 0"),
        ({"coordinator": ":8476"}, "expected host:port of process 0"),
        ({"coordinator": "host:8476"}, "config.num_processes is 0; expected"),
        (
            {"coordinator": "host:8476", "num_processes": 2},
            "config.process_id is -1; expected 0 to 1",
        ),
        (
            {"coordinator": "[::1]:8476", "num_processes": 2, "process_id": 2},
            "config.process_id is 2; expected 0 to 1",
        ),
        ({"num_processes": 2}, "need config.coordinator"),
        ({"connection_timeout": math.inf}, "more than 0, and finite"),
        ({"connection_timeout": math.nan}, "more than 0, and finite"),
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


VISIBLE = """
import jax

from configs import common
from vse_jax import host_connection

config = common.get_config()
config.distributed = True
host_connection.connect(config, preemptible=False)
print(jax.config.read("jax_cuda_visible_devices"))
"""


def test_process_that_slurm_starts_alone_on_a_machine_has_all_of_its_gpus():
    """JAX's choice for any process of Slurm is the first one."""
    job = {
        "JAX_COORDINATOR_PORT": str(free_port()),
        "SLURM_JOB_ID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "1(x1)",
    }
    process = programs.start_python("-c", VISIBLE, env=programs.environment() | job)
    finished = programs.finish(process)
    assert finished.stdout == "all\n", finished.stderr


@pytest.mark.parametrize(
    ("name", "tasks", "expected"),
    [
        ("SLURM_STEP_TASKS_PER_NODE", "1", True),
        ("SLURM_STEP_TASKS_PER_NODE", "8(x2)", False),
        ("SLURM_STEP_TASKS_PER_NODE", "2,1", False),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "1", True),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "4", False),
    ],
)
def test_process_of_several_on_a_machine_has_one_gpu(
    name, tasks, expected, monkeypatch
):
    monkeypatch.setenv(name, tasks)
    assert host_connection._is_alone() == expected


@pytest.mark.parametrize(
    ("number", "missing"), [(0, "host 1 of 2 did not"), (1, "host 0 at 127.0.0.1:")]
)
def test_host_that_waits_in_vain_names_the_missing_one(number, missing):
    finished = programs.run(
        f"--config={programs.CONFIG}",
        f"--config.coordinator=127.0.0.1:{free_port()}",
        "--config.num_processes=2",
        f"--config.process_id={number}",
        "--config.connection_timeout=1",
    )
    error = programs.refusal(finished)
    assert f"2 processes cannot be connected ({missing}" in error
    assert "answer within 1 s" in error


def test_host_that_fails_at_its_start_ends_both_with_one_line(place):
    """Before the data, the devices or the workdir are looked at."""
    nowhere = ["--config.compilation_cache=gs://no-such-bucket/cache"]
    environment = programs.environment() | {
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "0",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{free_port()}",
    }
    finished = Hosts(place.start).run(own_options=((), nowhere), env=environment)
    assert [host.returncode for host in finished] == [2, 2], finished
    assert "no-such-bucket" in programs.refusal(finished[0])
    assert not finished[1].stderr


def test_hosts_with_different_numbers_of_devices_end_with_one_line(place):
    def start(*options, **popen):
        devices = 3 if "--config.process_id=1" in options else 1
        return place.start(*options, devices=devices, **popen)

    finished = Hosts(start).run(f"--workdir={place.workdir('uneven')}")
    assert [host.returncode for host in finished] == [2, 2], finished
    assert programs.refusal(finished[0]) == (
        "error: host 1 has 3 devices, host 0 has 1; start all hosts with equally many, "
        "which CUDA_VISIBLE_DEVICES limits on hosts with GPUs"
    )
    assert not finished[1].stderr


MISTAKES = {  # options of a host, and what it says
    "option": ("--config.no_such_option=1", "no_such_option"),
    "flag": ("--no_such_flag=1", "Unknown command line flag 'no_such_flag'"),
    "mode": ("--mode=import", "--import_file is missing"),
}


@pytest.mark.parametrize(("number", "kind"), [(1, "option"), (1, "mode"), (0, "flag")])
def test_mistake_in_the_command_line_of_one_host_ends_both(place, number, kind):
    """The other one would wait for it until the timeout."""
    option, expected = MISTAKES[kind]
    own_options = [[], []]
    own_options[number] = [option]
    begin = time.monotonic()
    finished = Hosts(place.start).run(
        f"--workdir={place.workdir('mistaken')}",
        "--config.connection_timeout=600",
        own_options=own_options,
    )
    assert time.monotonic() - begin < 120
    assert [host.returncode for host in finished] == [2, 2], finished
    mistaken, other = finished[number], finished[1 - number]
    errors = [line for line in mistaken.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert expected in errors[0]
    if number == 0:
        assert "error" not in other.stderr
    else:
        reason = errors[0].removeprefix("error: ")
        told = f"error: host {number} stopped at its start: {reason}"
        assert programs.refusal(other) == told


def test_same_mistake_in_all_command_lines_ends_all_at_once(place):
    finished = Hosts(place.start).run("--no_such_flag=1")
    assert [host.returncode for host in finished] == [2, 2], finished
    for host in finished:
        lines = host.stderr.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, host.stderr


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--config.num_processes=x", "--config.coordinator=a:1"], {}),
        (
            ["--other", "--config.coordinator", "a:1", "--config.process_id=1"],
            {"coordinator": "a:1", "process_id": 1},
        ),
        (["--config.distributed"], {"distributed": True}),
        (["--config.distributed=False"], {}),
        (
            ["--config.distributed=True", "--config.connection_timeout=5"],
            {"distributed": True, "connection_timeout": 5.0},
        ),
    ],
)
def test_hosts_are_found_in_an_invalid_command_line(argv, expected):
    found = host_connection._options_in(argv).to_dict()
    assert found == host_connection.CONNECTION_DEFAULTS | expected
