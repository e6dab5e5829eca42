import signal
import threading
import time

import pytest

from tests import programs
from vse_jax import compile_ahead
from vse_jax.compile_ahead import Compilation


def never():
    return False


def test_all_programs_are_compiled_side_by_side():
    """Two programs that wait for each other."""
    meeting = threading.Barrier(2, timeout=30)
    program = [Compilation(name, meeting.wait) for name in "ab"]
    if (compile_ahead.os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    assert compile_ahead.compile_all(program, never)


def test_signal_does_not_wait_for_a_compilation():
    release = threading.Event()
    endless = Compilation("endless", release.wait)
    started = time.monotonic()
    assert not compile_ahead.compile_now(endless, lambda: True)
    assert not compile_ahead.compile_all([endless], lambda: True)
    assert time.monotonic() - started < 10
    assert compile_ahead.is_busy()
    release.set()
    deadline = time.monotonic() + 10
    while compile_ahead.is_busy() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not compile_ahead.is_busy()


def test_error_of_a_compilation_is_raised():
    def fail():
        raise RuntimeError("RESOURCE_EXHAUSTED")

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_ahead.compile_now(Compilation("large", fail), never)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_ahead.compile_all([Compilation("large", fail)], never)


def test_background_compiles_in_order():
    compiled = []
    names = [
        Compilation(name, lambda name=name: compiled.append(name)) for name in "abc"
    ]
    compile_ahead.compile_in_background(iter(names))
    deadline = time.monotonic() + 10
    while compile_ahead.is_busy() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert compiled == ["a", "b", "c"]


def test_sigterm_before_the_first_step_leaves_at_once(tmp_path_factory):
    place = programs.playground(tmp_path_factory.getbasetemp())
    workdir = place.workdir("stopped_in_compilation")
    large = "--config.model.embed_dim=1024"  # compiles for many seconds
    cache = f"--config.compilation_cache={workdir}/cache"
    process = place.start(f"--workdir={workdir}", large, cache)
    assert any("compiling the training step" in line for line in process.stderr)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    finished = programs.finish(process)
    assert finished.returncode == 143
    assert "stopped by SIGTERM before the first step" in finished.stderr
    assert "first step after" not in finished.stderr
