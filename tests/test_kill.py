"""A run that is killed and resumed gives the same result as an uninterrupted one."""

import re
import signal

import pytest

from tests import programs

STEPS = 2 * programs.STEPS_PER_EPOCH
ATTEMPTS = 3  # to hit the moment of a save


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


def test_killed_run_ends_as_an_uninterrupted_one(place):
    reference, _ = place.trained()
    workdir = place.workdir("killed")

    def start():
        return place.start(f"--workdir={workdir}")

    kill_in_training(start())
    kill_in_evaluation(start(), workdir)
    kill_in_save(start, workdir)
    last = programs.finish(start())

    assert last.returncode == 0, last.stderr
    assert "resuming from the checkpoint of step" in last.stderr
    programs.assert_same_run(workdir, reference, STEPS)
    report = "eval/test.json"
    assert (workdir / report).read_bytes() == (reference / report).read_bytes()


@pytest.mark.slow
def test_terminated_run_of_two_devices_ends_as_an_uninterrupted_one(place):
    reference, _ = place.trained(devices=2)
    workdir = place.workdir("terminated")

    def start():
        return place.start(f"--workdir={workdir}", devices=2)

    stopped = programs.stop_after(start(), "step 7/", signal.SIGTERM)
    assert stopped.returncode == 143, stopped.stderr
    assert "Traceback" not in stopped.stderr
    said = re.search(r"stopped by SIGTERM after step (\d+), which is", stopped.stderr)
    step = int(said[1])
    assert 7 <= step < STEPS
    assert programs.checkpoint_steps(workdir)[0] == step

    last = programs.finish(start())
    assert last.returncode == 0, last.stderr
    assert f"resuming from the checkpoint of step {step}\n" in last.stderr
    programs.assert_same_run(workdir, reference, STEPS)


def kill_in_training(process):
    killed = programs.stop_after(process, "step 8/", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL


def kill_in_evaluation(process, workdir):
    """The line of an epoch's last step comes just before its evaluation."""
    step = programs.STEPS_PER_EPOCH
    killed = programs.stop_after(process, f"step {step}/", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert "dev: rSum" not in killed.stderr
    assert step not in programs.checkpoint_steps(workdir)


def kill_in_save(start, workdir):
    """Kills it during a save, which leaves an unfinished checkpoint behind."""

    def started():
        process = start()
        wait_for_first_step(process)
        return process

    programs.kill_while(lambda: unfinished_checkpoints(workdir), started, ATTEMPTS)


def wait_for_first_step(process):
    """Before this step, unfinished checkpoints may come from an earlier kill."""
    assert any("first step after" in line for line in process.stderr)


def unfinished_checkpoints(workdir):
    return [path for path in (workdir / "checkpoints").iterdir() if "tmp" in path.name]
