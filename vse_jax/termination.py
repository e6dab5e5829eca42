"""Signals that end the program: Ctrl-C (SIGINT), and SIGTERM, which clouds send.

Outside of training, the first Ctrl-C raises `KeyboardInterrupt`. Libraries that run our
code in their threads or destructors may swallow it, so it is raised once more by the
next `check`, and a watchdog ends the process after a few seconds in any case. Every
write may be interrupted at any moment.

In training, both signals are noted instead, so that the loop can save a checkpoint
after the step it is at. A second Ctrl-C ends the process at once.

With several hosts JAX notes SIGTERM, and all hosts agree on a step to stop after. JAX
does so from the moment the hosts are connected. Before the first step there is nothing
to save, so until then this module replaces JAX's handler.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

WATCHDOG_SECONDS = 10.0
_SIGACTION_BYTES = 512  # more than any system's `struct sigaction`
_HOW_TO_QUIT = "; press Ctrl-C again to exit immediately"

_noted: signal.Signals | None = None  # the last signal that asked the program to end
_is_noted_only = False  # in training: nothing is raised
_is_raised = False  # a Ctrl-C was raised
_replaced = None  # JAX's handler of SIGTERM, while another one replaces it


def install() -> None:
    """Handles Ctrl-C from now on; to be called by the main thread."""
    signal.signal(signal.SIGINT, _interrupt)


def end_at_sigterm() -> None:
    """Ends the process at SIGTERM from now on; for work that leaves nothing."""
    signal.signal(signal.SIGTERM, _end)


def _end(number, frame):
    os.write(2, b"stopped by SIGTERM\n")
    os._exit(128 + number)


def check() -> None:
    """Raises `KeyboardInterrupt` if an earlier one was swallowed."""
    if (
        _noted == signal.SIGINT
        and not _is_noted_only
        and threading.current_thread() is threading.main_thread()
    ):
        raise KeyboardInterrupt


def is_raised() -> bool:
    """Whether Ctrl-C was raised; any later error may be a consequence of it.

    An extension module that is interrupted while it is imported raises `ImportError`.
    """
    return _is_raised


def exit_code() -> int:
    """What a shell reports of a process that the noted signal ended."""
    return 128 + (_noted or signal.SIGTERM)


def signal_name() -> str:
    """Name of the noted signal, for people."""
    return "Ctrl-C" if _noted == signal.SIGINT else "SIGTERM"


class Termination:
    """Within it, SIGTERM and Ctrl-C are noted instead of ending the process."""

    def __enter__(self):
        global _is_noted_only
        _is_noted_only = True
        self._received, self._is_before_steps = False, True
        self._handlers = {
            number: signal.signal(number, self._note) for number in self._signals()
        }
        return self

    def __exit__(self, *exception):
        global _is_noted_only
        _is_noted_only = False
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _signals(self):
        from vse_jax import parallel

        if parallel.is_single_host():
            return signal.SIGINT, signal.SIGTERM
        return (signal.SIGINT,)  # JAX notes SIGTERM on several hosts

    def _note(self, number, frame):
        global _noted
        if number == signal.SIGINT and _noted == signal.SIGINT:
            _exit_at_once()
        _noted = signal.Signals(number)
        self._received = True
        # Not by `print`, which the signal may have interrupted.
        os.write(2, f"{signal_name()}: saving after this step{_HOW_TO_QUIT}\n".encode())

    def is_received(self) -> bool:
        """Whether this host received a signal that it handles itself.

        With several hosts, none stops alone between steps.
        """
        from vse_jax import parallel

        return self._received and (self._is_before_steps or parallel.is_single_host())

    def begin_steps(self) -> None:
        """Waits for all hosts before the first step; from now on, they stop together.

        All hosts must call it. One may copy or compile for longer than the collectives
        of a step would wait for it.
        """
        from vse_jax import parallel

        if self._is_before_steps:
            parallel.wait_for_hosts("is ready for the first step")
        self._is_before_steps = False
        _restore_sigterm()

    def is_due(self) -> bool:
        """Whether to save and leave after this step; the same on all hosts.

        All hosts must call it after every step.
        """
        from vse_jax import parallel

        return parallel.agree_to_stop(self._received)


def end_at_sigterm_before_steps(end: Callable[[], None]) -> None:
    """Ends the processes of all hosts at SIGTERM, until `Termination.begin_steps`.

    Args:
      end: ends them; called in a thread, since the main thread may be waiting in a
        library, which no Python handler interrupts.
    """
    global _replaced
    if _replaced is not None:
        return
    _replaced = ctypes.create_string_buffer(_SIGACTION_BYTES)
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, _replaced)
    received, notice = os.pipe()
    os.set_blocking(notice, False)

    def wait():
        while number := os.read(received, 1):
            if number[0] == signal.SIGTERM and _replaced is not None:
                end()
        os.close(received)

    threading.Thread(target=wait, name="SIGTERM", daemon=True).start()
    signal.set_wakeup_fd(notice, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # the thread reads it


def _restore_sigterm():
    """Restores JAX's handler, which `signal.signal` cannot, as it is not Python's."""
    global _replaced
    if _replaced is None:
        return
    notice = signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).sigaction(signal.SIGTERM, _replaced, None)
    _replaced = None
    os.close(notice)


def exit_now(code: int) -> None:
    """Exits without what the interpreter and libraries would wait for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _interrupt(number, frame):
    global _noted, _is_raised
    if _noted == signal.SIGINT:
        _exit_at_once()
    _noted = signal.SIGINT
    _is_raised = True
    watchdog = threading.Timer(WATCHDOG_SECONDS, _exit_at_once)
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt


def _exit_at_once():
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT)
