"""Several processes, connected over the loopback interface, as the hosts of a run."""

import csv
import pathlib
import re
import socket
import subprocess
import time

import numpy as np
import pytest

from tests import photo_files, programs

ATTEMPTS = 3  # another process may take a port that was free
SECONDS_TO_EXIT = 30.0  # after the death of another host
# A model that compiles in seconds.
REGION_OPTIONS = ("--config.model.text_encoder=gru", "--config.epochs=1")


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
    """Starts the program once per host; each host has one device by default."""

    def __init__(self, start, num_hosts: int = 2):
        """Takes a function that starts one process with further options."""
        self._start = start
        self._num_hosts = num_hosts

    def start(self, *options, own_options=(), **popen) -> list[subprocess.Popen]:
        """Starts all; `own_options` are those of each host alone."""
        address = f"127.0.0.1:{free_port()}"
        own_options = own_options or ((),) * self._num_hosts
        return [
            self._start(
                f"--config.coordinator={address}",
                f"--config.num_processes={self._num_hosts}",
                f"--config.process_id={number}",
                *options,
                *own,
                **popen,
            )
            for number, own in enumerate(own_options)
        ]

    def run(self, *options, **starting) -> list[programs.Finished]:
        """Runs all to their end."""
        for _ in range(ATTEMPTS):
            finished = finish_all(self.start(*options, **starting))
            if "cannot use its port" not in finished[0].stderr:
                return finished
        pytest.fail("no port stayed free")


def with_regions(place: programs.Playground):
    """Returns a function that starts a process of a tiny run on region features."""
    return lambda *options, **popen: place.start(*REGION_OPTIONS, *options, **popen)


def with_photos(photos: pathlib.Path):
    """Returns a function that starts a process of a tiny run on photos."""
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


def photo_folder(root: pathlib.Path) -> pathlib.Path:
    """Writes photos of different sizes to a folder, with their captions."""
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


def free_port() -> int:
    """Returns a port that no process listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish_all(processes: list[subprocess.Popen]) -> list[programs.Finished]:
    """Waits for all processes; kills those left if one takes far too long."""
    try:
        return [programs.finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def kill_one(
    processes: list[subprocess.Popen], victim: int
) -> tuple[list[programs.Finished], float]:
    """Kills a process; returns how all ended, and the seconds until all others had."""
    processes[victim].kill()
    begin = time.monotonic()
    others = [p for p in processes if p is not processes[victim]]
    while any(process.poll() is None for process in others):
        if time.monotonic() - begin > SECONDS_TO_EXIT:
            break
        time.sleep(0.01)
    seconds = time.monotonic() - begin
    return finish_all(processes), seconds


def assert_named(finished: list[programs.Finished], victim: int) -> None:
    """Asserts that the others exited with one line that names the host that is gone.

    The primary host prints it; if that is the one that is gone, every other host does.
    """
    for number, host in enumerate(finished):
        if number == victim:
            continue
        assert host.returncode == 2, (number, host.stderr)
        lines = [line for line in host.stderr.splitlines() if not _is_logged(line)]
        if victim and number:
            assert not lines, (number, host.stderr)
        else:
            assert len(lines) == 1, (number, host.stderr)
            assert lines[0].startswith(f"error: host {victim} ("), lines
            assert "is gone: its process was killed or its machine stopped" in lines[0]


def _is_logged(line):
    """Whether a line is of the log, or of the table of parameters in it."""
    return re.match(r"\d\d:\d\d:\d\d  |[+|]|Total: ", line)
