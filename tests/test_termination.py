"""Ctrl-C outside of training: one line, and exit status 130."""

import signal
import time

import pytest

from tests import programs

# A mode that Ctrl-C interrupts while it imports an extension module, as JAX's: what is
# raised is an ImportError.
INTERRUPTED_IMPORT = """
import os, signal, sys
from vse_jax import cli

def mode(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
    except KeyboardInterrupt:
        raise {error}("Encountered an error while initializing the extension.")

cli.main = mode
sys.argv = ["main.py"]
cli.run()
"""


@pytest.mark.parametrize("error", ["ImportError", "cli.InputError", "SystemError"])
def test_ctrl_c_that_becomes_another_error_is_still_ctrl_c(error):
    code = INTERRUPTED_IMPORT.format(error=error)
    finished = programs.finish(programs.start_python("-c", code))
    assert finished.returncode == 128 + signal.SIGINT, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith("interrupted")


def test_ctrl_c_during_the_first_imports():
    """At any moment from the first line of main.py on."""
    process = programs.start_python("-X", "importtime", "main.py", "--mode=eval")
    for line in process.stderr:
        if line.rstrip().endswith(" absl"):
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    finished = programs.finish(process)
    assert finished.returncode == 128 + signal.SIGINT, finished.stderr
    printed = [x for x in finished.stderr.splitlines() if "import time:" not in x]
    assert len(printed) == 1
    assert printed[0].startswith("interrupted")
