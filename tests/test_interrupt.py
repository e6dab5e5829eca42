"""Real runs that get Ctrl-C, or whose standard output is closed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests import programs
from vse_jax import termination

LINE = "interrupted: completed work is kept; run the same command to continue"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


def test_training_is_saved_and_resumed(place):
    reference, _ = place.trained()
    workdir = place.workdir("interrupted")

    def start():
        return place.start(f"--workdir={workdir}")

    stopped = programs.stop_after(start(), "step 7/", signal.SIGINT)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    step = programs.checkpoint_steps(workdir)[0]
    assert 7 <= step < 20
    before, last = stopped.stderr.splitlines()[-2:]
    assert "  time 0:0" in before
    assert last.endswith(
        f"stopped by Ctrl-C after step {step}, which is saved; run the same command to "
        "resume"
    )
    finished = programs.finish(start())
    assert finished.returncode == 0, finished.stderr
    programs.assert_same_run(workdir, reference, 2 * programs.STEPS_PER_EPOCH)


def test_signal_during_the_last_evaluation_is_not_lost(place):
    """The report on the test split may take minutes, after all steps are saved."""
    workdir = place.workdir("interrupted_at_the_end")
    last = 2 * programs.STEPS_PER_EPOCH
    process = place.start(f"--workdir={workdir}")
    stopped = programs.stop_after(process, f"step {last}/", signal.SIGTERM)
    assert stopped.returncode == 143, stopped.stderr
    assert f"stopped by SIGTERM after step {last}, which is saved" in stopped.stderr
    assert programs.checkpoint_steps(workdir)[0] == last
    assert not (workdir / "eval").exists()


def test_preparation_ends_at_once_and_leaves_nothing(tmp_path):
    """Scenes are drawn one by one in Python, so thousands take seconds."""
    data_dir = tmp_path / "data"
    process = programs.start(
        f"--config={programs.REPOSITORY / 'configs' / 'quickstart.py'}",
        "--mode=prepare",
        "--config.data.scene_counts=(20000,500,500)",
        f"--config.data.data_dir={data_dir}",
    )
    while process.poll() is None and not list(data_dir.rglob("incomplete*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    finished = programs.finish(process)
    assert finished.returncode == 130, finished.stderr
    # The watchdog's line, if a library swallowed the interrupt.
    assert finished.stderr.splitlines() in ([LINE], ["interrupted"])
    assert not finished.stdout
    assert not [name for name in programs.files(data_dir) if "incomplete" not in name]


SWALLOWED = """
    import sys, time
    from vse_jax import termination
    from vse_jax.progress import Progress

    termination.install()

    class Careless:
        def __del__(self):
            print("waiting", flush=True)
            time.sleep(10)

    try:
        Careless()  # Python ignores an exception in its destructor
        print("working", flush=True)
        {work}
        print("not interrupted", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_careless(work):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SWALLOWED).format(work=work)],
        cwd=programs.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "working\n"
    return process


def test_swallowed_interrupt_is_raised_again_by_the_next_progress():
    process = start_careless("Progress('working', 3, 'items').add()")
    finished = programs.finish(process)
    assert finished.returncode == 130
    assert not finished.stdout


def test_second_interrupt_ends_at_once():
    process = start_careless("time.sleep(60)")
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert programs.finish(process).returncode == 130
    assert time.monotonic() - begin < termination.WATCHDOG_SECONDS / 2


def test_closed_output_is_not_reported_as_a_full_disk(place):
    workdir, _ = place.trained()
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "main.py", "--mode=eval", f"--workdir={workdir}"],
        cwd=programs.REPOSITORY,
        env=programs.environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert process.returncode == 128 + signal.SIGPIPE, process.stderr
    assert "space" not in process.stderr
    assert "Traceback" not in process.stderr


def test_names_that_the_terminal_cannot_encode(tmp_path):
    environment = programs.environment() | {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
    }
    finished = programs.run("--mode=eval", f"--workdir={tmp_path}/é中", env=environment)
    message = programs.refusal(finished)
    assert "\\xe9\\u4e2d has no checkpoint" in message or "\\udcc3" in message
