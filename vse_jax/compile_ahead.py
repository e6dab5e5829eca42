"""Compiles programs in threads, so that the program answers signals meanwhile.

On accelerators and on several hosts, all programs are compiled before the first step.
On one CPU host, the first step is not delayed: the other programs are compiled in the
background, in the order of their first use.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax

from vse_jax import parallel
from vse_jax.progress import Progress

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_busy = set()  # threads that compile


class Compilation(NamedTuple):
    """The compilation of a program.

    Attributes:
      name: of the program for messages, such as `train step of 24 tokens`.
      compile: compiles the program, or returns at once if it is compiled.
    """

    name: str
    compile: Callable[[], Any]

    @classmethod
    def of(cls, name: str, mapped: parallel.Mapped, *shapes) -> "Compilation":
        """Returns that of a mapped function for the shapes of its arguments."""
        return cls(name, lambda: mapped.compile(*shapes))


def is_worthwhile() -> bool:
    """Whether all programs are compiled before the first step."""
    return jax.default_backend() != "cpu" or not parallel.is_single_host()


def is_busy() -> bool:
    """Whether a thread still compiles; the interpreter must not shut down then."""
    return bool(_busy)


def compile_all(
    programs: Sequence[Compilation], should_stop: Callable[[], bool]
) -> bool:
    """Compiles programs in parallel, with progress.

    Args:
      programs: programs to compile.
      should_stop: returns whether to leave without waiting any longer.

    Returns:
      Whether all programs are compiled; False if `should_stop` became true.

    Raises:
      Exception: whatever a compilation raises.
    """
    logger.info("compiling %d programs", len(programs))
    waiting = list(programs)
    running = {}
    progress = Progress("compiling", len(programs), "programs")
    with parallel.waiting_for_compiler(), progress:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                program = waiting.pop(0)
                running[program.name] = _start([program])
            if should_stop():
                return False
            _wait(next(iter(running.values())))
            for name in [name for name, future in running.items() if future.done()]:
                running.pop(name).result()
                progress.add()
    return True


def compile_now(program: Compilation, should_stop: Callable[[], bool]) -> bool:
    """Compiles a program that is needed now; see `compile_all`."""
    future = _start([program])
    with parallel.waiting_for_compiler():
        while not future.done():
            if should_stop():
                return False
            _wait(future)
    future.result()
    return True


def compile_in_background(programs: Iterable[Compilation]) -> None:
    """Starts to compile programs one after the other, and returns.

    The programs are iterated over in a thread. If one cannot be compiled, the call that
    needs it raises the error.
    """
    _start(programs)


def _start(programs):
    future = Future()

    def work():
        try:
            for program in programs:
                program.compile()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)
        finally:
            _busy.discard(thread)

    thread = threading.Thread(target=work, name="compile", daemon=True)
    _busy.add(thread)
    thread.start()
    return future


def _wait(future):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait(_POLL_SECONDS)
