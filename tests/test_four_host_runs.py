"""Runs of four processes, and runs that go on with other processes and devices."""

import json
import signal

import pytest

from tests import parity, programs
from tests.host_processes import Hosts, photo_folder, with_photos, with_regions

STEPS = programs.STEPS_PER_EPOCH


def assert_primary_alone_printed(finished):
    for host in finished:
        assert host.returncode == 0, host.stderr
    for host in finished[1:]:
        assert not host.stdout + host.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def reference(place):
    """The workdir of an undisturbed run on four devices of one process."""
    workdir = place.workdir("of_four_devices")
    start = with_regions(place)
    finished = programs.finish(start(f"--workdir={workdir}", devices=4))
    assert finished.returncode == 0, finished.stderr
    return workdir


def stopped(place, name, devices):
    """The workdir of a run of one process that is stopped in its midst."""
    workdir = place.workdir(name)
    process = with_regions(place)(f"--workdir={workdir}", devices=devices)
    finished = programs.stop_after(process, "step 6/", signal.SIGTERM)
    assert finished.returncode == 143, finished.stderr
    assert 6 <= programs.checkpoint_steps(workdir)[0] < STEPS
    return workdir


def assert_ends_as(workdir, reference):
    """Sums over other numbers of devices are rounded differently."""
    found, expected = (programs.restored(run, STEPS) for run in (workdir, reference))
    parity.assert_trees_close(
        found.variables["params"], expected.variables["params"], atol=1e-4
    )
    losses = [programs.curves(run)["loss"] for run in (workdir, reference)]
    assert losses[0].keys() == losses[1].keys()
    differences = [abs(losses[0][step] - losses[1][step]) for step in losses[0]]
    assert max(differences) < 1e-4


def test_run_of_one_process_goes_on_with_four(place, reference):
    workdir = stopped(place, "one_to_four_hosts", devices=4)
    finished = Hosts(with_regions(place), 4).run(f"--workdir={workdir}")
    assert_primary_alone_printed(finished)
    assert "resuming from the checkpoint of step" in finished[0].stderr
    assert_ends_as(workdir, reference)


@pytest.mark.slow
def test_run_of_eight_devices_goes_on_with_four(place, reference):
    workdir = stopped(place, "eight_to_four_devices", devices=8)
    process = with_regions(place)(f"--workdir={workdir}", devices=4)
    finished = programs.finish(process)
    assert finished.returncode == 0, finished.stderr
    assert_ends_as(workdir, reference)


@pytest.mark.slow
def test_four_hosts_evaluate_as_one(place, reference):
    report = reference / "eval" / "test.json"
    expected = json.loads(report.read_text())
    report.unlink()
    finished = Hosts(with_regions(place), 4).run(
        "--mode=eval", f"--workdir={reference}"
    )
    assert_primary_alone_printed(finished)
    assert json.loads(report.read_text())["metrics"] == expected["metrics"]


@pytest.mark.slow
def test_one_of_four_hosts_prepares(place, tmp_path):
    options = "--mode=prepare", f"--config.data.data_dir={tmp_path}"
    finished = Hosts(place.start, 4).run(*options)
    assert_primary_alone_printed(finished)
    assert finished[0].stdout.startswith(f"prepared: {tmp_path}")


@pytest.mark.slow
def test_four_hosts_extract_the_features_of_one(tmp_path):
    start = with_photos(photo_folder(tmp_path / "root"))
    alone, together = (tmp_path / "runs" / name for name in ("alone", "together"))
    # As many photos at once as each host takes, or float16 may round otherwise.
    options = ("--mode=extract", "--config.evaluation_batch_size=2")
    one = programs.finish(start(*options, f"--workdir={alone}"))
    assert one.returncode == 0, one.stderr
    finished = Hosts(start, 4).run("--mode=extract", f"--workdir={together}")
    assert_primary_alone_printed(finished)
    expected, found = (programs.files(run / "features") for run in (alone, together))
    shards = [name for name in expected if "array_record" in name]
    assert len(shards) > 3
    assert [found[name] for name in shards] == [expected[name] for name in shards]
    assert found.keys() == expected.keys()
