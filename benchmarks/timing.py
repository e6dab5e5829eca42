"""Timing of functions, and tables of the results."""

import dataclasses
import pathlib
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

# Seconds between turns: threads of one side may spin for a while after their work, and
# would take the processor from the other side.
PAUSE = 0.5
SAMPLING_SECONDS = 0.01  # between samples of the memory


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long one function took, in seconds, over its repeats.

    Attributes:
      processor: median processor time of all threads, seconds; 0 if not measured.
      anonymous: the most anonymous memory of its process, bytes; 0 if not measured.
    """

    median: float
    minimum: float
    maximum: float
    processor: float = 0.0
    anonymous: int = 0


class AnonymousMemory:
    """A context manager that samples this process's anonymous memory, on Linux.

    Memory that maps files is not anonymous: the system takes it back when needed.

    Attributes:
      peak: the largest sample, bytes; 0 on other systems.
    """

    def __init__(self):
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._ended.set()
        self._thread.join()

    def _sample(self):
        status = pathlib.Path("/proc/self/status")
        if not status.exists():
            return
        while True:
            match = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            self.peak = max(self.peak, int(match[1]) * 1024)
            if self._ended.wait(SAMPLING_SECONDS):
                return


def seconds_of(function: Callable[[], object]) -> float:
    """Returns how long one call took, until what it returned is computed.

    JAX returns before the work is done, so its arrays are waited for.
    """
    start = time.perf_counter()
    result = function()
    if "jax" in sys.modules:  # a process of PyTorch does not import it
        sys.modules["jax"].block_until_ready(result)
    return time.perf_counter() - start


def median_seconds(
    functions: Mapping[str, Callable[[], object]], repeats: int, warmup: int
) -> dict[str, Timing]:
    """Times each function `repeats` times, in turns (A B A B ...).

    Turns, so that whatever else the machine does falls on all of them alike. Each is
    first called `warmup` times untimed, which also compiles it.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    for function in functions.values():
        for _ in range(warmup):
            seconds_of(function)
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(PAUSE)
            seconds[name].append(seconds_of(function))
    return {name: summary(times) for name, times in seconds.items()}


def summary(seconds: Sequence[float]) -> Timing:
    """Returns the median and the extremes."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def format_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns `rows` as an aligned Markdown table, headed by the first row's keys.

    Floats get three significant digits, other values their `str`; numbers are aligned
    to the right. Every row has the same keys.
    """
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        raise ValueError(f"every row must have the columns {', '.join(names)}")
    cells = [names, *([_format(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [isinstance(rows[0][name], int | float) for name in names]
    lines = [_line(line, widths, right) for line in cells]
    rule = [
        "-" * (width - 1) + (":" if is_right else "-")
        for width, is_right in zip(widths, right, strict=True)
    ]
    return "\n".join([lines[0], _line(rule, widths, right), *lines[1:]])


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Prints `format_table(rows)`."""
    print(format_table(rows))


def _format(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if is_right else cell.ljust(width)
        for cell, width, is_right in zip(cells, widths, right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
