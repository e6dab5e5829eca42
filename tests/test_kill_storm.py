"""Runs whose processes are killed at random moments end as undisturbed runs.

A host is killed at its start, in a step, in an evaluation or in a save; the others must
exit with one line that names it. Then the run is resumed, and killed again. CI kills in
test_hosts.py and test_kill.py, at chosen moments. For random ones:

  VSE_KILLS=20 pytest -s -m slow tests/test_kill_storm.py
"""

import os
import subprocess
import time

import numpy as np
import pytest

from tests import programs
from tests.host_processes import (
    SECONDS_TO_EXIT,
    Hosts,
    assert_named,
    finish_all,
    kill_one,
    with_regions,
)

KILLS = int(os.environ.get("VSE_KILLS", "2"))
SEED = int(os.environ.get("VSE_KILL_SEED", "0"))
STEPS = programs.STEPS_PER_EPOCH
STARTED = "of dev; the vocabulary"  # logged when hosts are connected and JAX is set up
FIRST_STEP = "first step after"
MARKS = (STARTED, FIRST_STEP, f"step {STEPS}/")
MOMENTS = ("start", "step", "save")


class Storm:
    """One run after another, of which hosts are killed."""

    def __init__(self, place: programs.Playground, num_hosts: int):
        self._rng = np.random.default_rng((SEED, num_hosts))
        self._num_hosts = num_hosts
        start = with_regions(place)
        self._hosts = Hosts(start, num_hosts) if num_hosts > 1 else None
        self._start_one = start
        self._place = place
        self._start_seconds = 0.0  # from `STARTED` to `FIRST_STEP`
        self._step_seconds = 0.0
        self.slowest = 0.0  # seconds until the others had exited

    def start(self, workdir) -> list[subprocess.Popen]:
        option = f"--workdir={workdir}"
        # Every program is cached, so that most starts compile nothing.
        cached = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = programs.environment() | cached
        if self._hosts is None:
            return [self._start_one(option, env=environment)]
        return self._hosts.start(option, env=environment)

    def workdir(self, name):
        return self._place.workdir(f"{name}_of_{self._num_hosts}_hosts")

    def undisturbed(self):
        """Makes a run without kills; returns its workdir."""
        workdir = self.workdir("undisturbed")
        processes = self.start(workdir)
        times = {}
        for line in processes[0].stderr:
            times |= {text: time.monotonic() for text in MARKS if text in line}
        for host in finish_all(processes):
            assert host.returncode == 0, host.stderr
        started, first, last = (times[text] for text in MARKS)
        self._start_seconds = first - started
        self._step_seconds = (last - first) / STEPS
        return workdir

    def run(self, kills: int, reference) -> None:
        """Kills so many hosts; every run that ends is compared with the reference."""
        runs = 0
        while kills > 0:
            workdir = self.workdir(f"killed_{runs}")
            while kills > 0 and self._kill(workdir):
                kills -= 1
            for host in finish_all(self.start(workdir)):
                assert host.returncode == 0, host.stderr
            programs.assert_same_run(workdir, reference, STEPS)
            runs += 1

    def _kill(self, workdir) -> bool:
        """Resumes the run and kills a host; returns False if the run ended before."""
        processes = self.start(workdir)
        moment = self._rng.choice(MOMENTS)
        if not self._wait_for(moment, processes[0], workdir):
            for host in finish_all(processes):
                assert host.returncode == 0, host.stderr
            return False
        victim = int(self._rng.integers(self._num_hosts))
        finished, seconds = kill_one(processes, victim)
        if any(host.returncode == 0 for host in finished):  # the run had ended
            return False
        assert seconds < SECONDS_TO_EXIT
        assert_named(finished, victim)
        self.slowest = max(self.slowest, seconds)
        print(f"{self._num_hosts} hosts: killed {victim} in {moment}, {seconds:.2f} s")
        return True

    def _wait_for(self, moment, primary, workdir):
        """Waits for a moment; returns False if the run ends before."""
        if moment == "start":
            if not any(STARTED in line for line in primary.stderr):
                return False
            time.sleep(self._rng.uniform(0, self._start_seconds))
            return True
        steps = self._rng.integers(1, 7) if moment == "step" else 1
        for line in primary.stderr:
            steps -= "  step " in line
            if not steps:
                break
        else:
            return False
        if moment == "step":
            time.sleep(self._rng.uniform(0, self._step_seconds))
            return True
        while primary.poll() is None:
            if any("tmp" in path.name for path in workdir.glob("checkpoints/*")):
                return True
            time.sleep(0.001)
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_killed_run_ends_as_an_undisturbed_one(place, num_hosts):
    storm = Storm(place, num_hosts)
    reference = storm.undisturbed()
    storm.run(KILLS, reference)
    print(f"{num_hosts} hosts: all others exited within {storm.slowest:.2f} s")
