"""What is said of an error of one host."""

import signal

import jax
import pytest
from gcsfs.retry import HttpError

from vse_jax import host_errors
from vse_jax.errors import InputError, StoppedError, TrainingError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (OSError("connection to the file server was lost"), False),
        (HttpError({"code": 503, "message": "connection reset"}), False),
        (ValueError("UNAVAILABLE: CURL error [Error writing gs://bucket/run]"), False),
        (InputError("config.coordinator has no connection"), False),
        (KeyError("step"), False),
    ],
)
def test_errors_due_to_another_host_are_told_from_others(error, expected):
    """Also if the save of a checkpoint failed because of them."""
    assert host_errors.is_of_connection(error) == expected
    wrapped = TrainingError("cannot save the checkpoint")
    wrapped.__cause__ = error
    assert host_errors.is_of_connection(wrapped) == expected


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (InputError("a.npy: is empty"), "a.npy: is empty", 2),
        (StoppedError("stopped", 143), "stopped", 143),
        (KeyboardInterrupt(), "interrupted by Ctrl-C on host 3", 128 + signal.SIGINT),
        (BrokenPipeError(), "the output of host 3 is closed", 128 + signal.SIGPIPE),
        (RuntimeError("gloo: no answer"), "host 3 lost its connection", 2),
        (
            MemoryError("Unable to allocate 7.28 TiB"),
            "host 3: out of memory (Unable",
            2,
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: allocating 9 bytes"),
            "host 3: out of memory (RESOURCE_EXHAUSTED: allocating 9 bytes); use small",
            2,
        ),
        (HttpError({"code": 503, "message": "connection"}), "object storage: conn", 2),
        (HttpError({"code": 404, "message": "not found"}), "object storage: not", 2),
    ],
)
def test_every_error_has_a_line_and_a_code(error, text, code, capsys):
    assert host_errors.message(error, 3).startswith(text)
    assert host_errors.exit_code(error) == code
    assert not capsys.readouterr().err


def test_error_in_the_program_has_its_stack_trace(capsys):
    found = host_errors.message(KeyError("step"), 3)
    assert found == "host 3 failed ('step'); see its traceback"
    assert "KeyError" in capsys.readouterr().err
