"""Runs the program with all paths in a bucket, which an emulator stands for."""

import json
import re
import signal

import pytest

from tests import object_store, programs
from vse_jax.checkpoint import Checkpoints, read_description

ROOT = object_store.ROOT


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


def test_run_in_a_bucket_equals_a_local_run(emulator, base, bucket, tmp_path):
    reference, _ = base.trained()
    workdir = bucket / "run"
    options = [
        f"--config.data.data_dir={ROOT}/data",
        f"--config.data.local_copy={tmp_path}/copy",
        f"--config.compilation_cache={ROOT}/cache",
        "--config.checkpoint_every_steps=10",
        f"--workdir={workdir}",
    ]
    killed = programs.stop_after(base.start(*options), "step 21/", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (workdir / "run.lease").exists()
    stopped = programs.stop_after(base.start(*options), "step 27/", signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert re.search("stopped by SIGTERM after step (2[7-9]|[34])", stopped.stderr)
    assert re.search("resuming from the checkpoint of step [12]0", stopped.stderr)
    # One request for each split, all of which the identity of the dataset includes.
    assert emulator.count(r"array_record.*alt=media") == 3
    assert emulator.count("upload.*name=cache/")
    emulator.requests.clear()
    resumed = base.run(*options)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search("resuming from the checkpoint of step [234]", resumed.stderr)
    assert emulator.count(r"array_record.*alt=media") == 0  # they are copied already
    local = object_store.download(workdir, tmp_path / "run")
    programs.assert_same_run(local, reference, 2 * programs.STEPS_PER_EPOCH)
    assert not (local / "run.lease").exists()
    reports = [
        json.loads((folder / "eval" / "test.json").read_text())["metrics"]
        for folder in (local, reference)
    ]
    assert reports[0] == reports[1]
    _check_uncommitted_checkpoint_is_ignored(workdir)


def _check_uncommitted_checkpoint_is_ignored(workdir):
    """A kill while a checkpoint is uploaded leaves one without Orbax's marker."""
    steps = programs.checkpoint_steps(workdir)
    (workdir / "checkpoints" / str(steps[0]) / "commit_success.txt").unlink()
    assert programs.checkpoint_steps(workdir) == steps[1:]
    assert read_description(str(workdir), "latest")["config"]["batch_size"] == 8
    assert Checkpoints(str(workdir)).steps() == steps[1:]


def test_missing_bucket_is_refused_in_one_line(emulator, base):
    finished = base.run("--workdir=gs://absent/run")
    assert programs.refusal(finished) == (
        "error: --workdir is gs://absent/run, but there is no bucket 'absent'; create "
        "it, or correct the name"
    )


def test_bucket_without_a_folder_is_no_workdir(emulator, base):
    finished = base.run(f"--workdir={ROOT}/")
    assert programs.refusal(finished) == (
        f"error: --workdir is {ROOT}/; expected a folder in the bucket, such as "
        f"{ROOT}/runs/first"
    )
