"""Runs the program as a user does, on a tiny dataset in the numpy layout."""

import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from configs import f8k_rvse
from vse_jax.checkpoint import Checkpoints, Restored

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIG = REPOSITORY / "configs" / "f8k_rvse.py"
WORDS = ("red", "blue", "green", "dog", "cat", "runs", "sits", "jumps", "near", "far")
IMAGES = {"train": 40, "dev": 12, "test": 12}
REGIONS, DIM = 6, 12
STEPS_PER_EPOCH = 25  # 40 images with 5 captions each, in batches of 8
OVERRIDES = {
    "batch_size": 8,
    "checkpoint_every_steps": 5,
    "data.region_dim": DIM,
    "data.token_lengths": (16,),
    "epochs": 2,
    "evaluation_batch_size": 16,
    "log_every_steps": 1,
    "model.embed_dim": 16,
    "model.word_dim": 8,
}
TIMEOUT = 300  # seconds, for a machine that does other things too


def make_dataset(root: pathlib.Path) -> pathlib.Path:
    """Writes features and captions of all splits; every word occurs many times."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, images in IMAGES.items():
        regions = rng.normal(size=(images, REGIONS, DIM)).astype(np.float16)
        np.save(root / f"{split}_ims.npy", regions)
        captions = [
            " ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(5 * images)
        ]
        (root / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")
    return root


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a process left: its exit code and all that it printed."""

    returncode: int
    stdout: str
    stderr: str


class Playground:
    """A folder with a dataset, what is prepared of it, and runs.

    Attributes:
      folder: where the program is started, so that its runs are in `runs` there.
      root: source files of the dataset.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.root = make_dataset(folder / "root")
        self._finished = {}

    def workdir(self, name: str) -> pathlib.Path:
        """Folder of a run; all share what is compiled, which is beside them."""
        return self.folder / "runs" / name

    def config(self, **data) -> ml_collections.ConfigDict:
        """The configuration of `start`, with other options of its data."""
        config = f8k_rvse.get_config()
        folders = {"root": str(self.root), "data_dir": str(self.folder / "data")}
        config.update_from_flattened_dict(OVERRIDES)
        config.data.update(folders | data)
        config.dtype = "float32"  # which the program sets at its start
        return config

    def start(self, *options, **popen) -> subprocess.Popen:
        """Starts main.py with the tiny configuration; `options` override it."""
        data_dir = self.folder / "data"
        given = {"data.root": self.root, "data.data_dir": data_dir} | OVERRIDES
        arguments = [f"--config.{option}={value}" for option, value in given.items()]
        return start(
            f"--config={CONFIG}",
            *(argument.replace(" ", "") for argument in arguments),
            *options,
            **{"cwd": self.folder} | popen,
        )

    def run(self, *options, **popen) -> Finished:
        """Runs main.py with the tiny configuration to its end."""
        return finish(self.start(*options, **popen))

    def trained(self, devices: int = 1) -> tuple[pathlib.Path, Finished]:
        """A run that nothing interrupted, made once: its workdir and its output.

        With one device it is in the default workdir.
        """
        name = "f8k_rvse" if devices == 1 else f"of_{devices}_devices"
        if devices not in self._finished:
            options = [] if devices == 1 else [f"--workdir={self.workdir(name)}"]
            self._finished[devices] = self.run(*options, devices=devices)
        assert self._finished[devices].returncode == 0, self._finished[devices].stderr
        return self.workdir(name), self._finished[devices]


@functools.cache
def playground(base: pathlib.Path) -> Playground:
    """One for all tests of a session, whose base folder is given."""
    return Playground(base / "playground")


def environment(devices: int = 1) -> dict[str, str]:
    """Of a process with so many virtual devices."""
    return os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles sooner
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def start(*options, devices: int = 1, **popen) -> subprocess.Popen:
    """Starts main.py on so many virtual devices."""
    return start_python(REPOSITORY / "main.py", *options, devices=devices, **popen)


def start_python(*arguments, devices: int = 1, **popen) -> subprocess.Popen:
    """Starts Python with the arguments of its command line."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        **{"cwd": REPOSITORY, "env": environment(devices)} | popen,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> Finished:
    """Waits for a process; kills it if it takes far too long."""
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, stdout, stderr)


def run(*options, **popen) -> Finished:
    """Runs main.py to its end."""
    return finish(start(*options, **popen))


def stop_after(
    process: subprocess.Popen, text: str, number: signal.Signals
) -> Finished:
    """Sends a signal as soon as a line on standard error holds `text`."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            process.send_signal(number)
            break
    finished = finish(process)
    before = "".join(lines)
    assert text in before, f"it ended before {text!r}: {before}"
    return dataclasses.replace(finished, stderr=before + finished.stderr)


def kill_while(
    is_under_way: Callable[[], bool],
    start: Callable[[], subprocess.Popen],
    attempts: int,
) -> None:
    """Kills a process in the midst of something, for which it may be started anew.

    Args:
      is_under_way: whether the thing has begun, and is not complete.
      start: starts the process; nothing is under way then.
      attempts: how often it may be started to hit the moment.
    """
    for _ in range(attempts):
        process = start()
        while process.poll() is None and not is_under_way():
            time.sleep(0.001)
        process.kill()
        killed = finish(process)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if is_under_way():
            return
    pytest.fail(f"nothing was under way at any of {attempts} kills")


def refusal(finished: Finished) -> str:
    """The one line that tells what is wrong; checks that there is no more than that."""
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    lines = finished.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, finished.stderr
    assert lines[-1] == errors[0], finished.stderr
    return errors[0]


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Content of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints of a run, the latest first."""
    return Checkpoints(str(workdir), read_only=True).steps()


def restored(workdir: pathlib.Path, step: int) -> Restored:
    """A checkpoint, with the optimizer's state."""
    checkpoints = Checkpoints(str(workdir), read_only=True)
    return checkpoints.restore([step], with_optimizer=True)


def curves(workdir: pathlib.Path) -> dict[str, dict[int, float]]:
    """TensorBoard's scalars: of each name the values by step.

    Steps must increase over all files of the run, as in a curve without a jump back.
    """
    scalars = {}
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name in ("scalars", ""):
                    curve = scalars.setdefault(value.tag, {})
                    assert event.step > max(curve, default=-1), (value.tag, event.step)
                    curve[event.step] = float(tf.make_ndarray(value.tensor))
    return scalars


def assert_same_run(workdir: pathlib.Path, reference: pathlib.Path, steps: int) -> None:
    """Parameters, statistics, optimizer and curves are equal, bit for bit."""
    assert checkpoint_steps(workdir)[0] == steps
    ours, theirs = restored(workdir, steps), restored(reference, steps)
    assert ours.metrics == theirs.metrics
    for name in ("variables", "optimizer", "unaveraged"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(ours, name), getattr(theirs, name)
        )
    found, expected = curves(workdir), curves(reference)
    for name in ("pairs_per_second", "host_wait"):
        timings = [of_run.pop(name) for of_run in (found, expected)]
        assert timings[0].keys() == timings[1].keys()
    assert found == expected
