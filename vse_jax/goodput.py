"""What a run spends its time on, as shares of the wall-clock time (goodput)."""

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator

START, STEPS, COMPILATION = "start-up", "steps", "compilation"
EVALUATION, CHECKPOINTS = "evaluation", "checkpoints"
HOST_WAIT = "waiting for the host"
ACTIVITIES = (STEPS, HOST_WAIT, COMPILATION, EVALUATION, CHECKPOINTS, START)


class Goodput:
    """Divides the time since the start among activities.

    At any time one activity is under way. Time that the main thread waited for
    compilation within it counts as compilation.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        seconds_compiling: Callable[[], float] = lambda: 0.0,
        seconds_before: float = 0.0,
    ):
        """Begins with the start.

        Args:
          clock: returns the time in seconds.
          seconds_compiling: returns the seconds of compilation so far.
          seconds_before: time that the start has taken already.
        """
        self._clock = clock
        self._seconds_compiling = seconds_compiling
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._seconds[START] = seconds_before
        self._activity = START
        self._since, self._compiled = clock(), seconds_compiling()

    def begin(self, activity: str) -> None:
        """Ends the activity that is under way and begins another."""
        now, compiled = self._clock(), self._seconds_compiling()
        elapsed, compiling = now - self._since, compiled - self._compiled
        self._seconds[self._activity] += elapsed - compiling
        self._seconds[COMPILATION] += compiling
        self._activity, self._since, self._compiled = activity, now, compiled

    @contextlib.contextmanager
    def spent_on(self, activity: str) -> Iterator[None]:
        """Returns a context in which an activity interrupts the one under way."""
        before = self._activity
        self.begin(activity)
        try:
            yield
        finally:
            self.begin(before)

    def waited(self, seconds: float) -> None:
        """Counts seconds of the activity under way as waiting for the host."""
        self._seconds[self._activity] -= seconds
        self._seconds[HOST_WAIT] += seconds

    def shares(self) -> dict[str, int]:
        """Returns the share of each activity in percent; they add up to 100."""
        self.begin(self._activity)
        total = sum(self._seconds.values())
        if not total:
            return dict.fromkeys(ACTIVITIES, 0) | {START: 100}
        exact = {name: 100 * s / total for name, s in self._seconds.items()}
        shares = {name: int(share) for name, share in exact.items()}
        # The largest remainders are rounded up.
        by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
        for name in by_remainder[: 100 - sum(shares.values())]:
            shares[name] += 1
        return shares

    def line(self) -> str:
        """Returns a line such as `time 0:10:00: steps 80%, compilation 5%, ...`."""
        shares = self.shares()
        seconds = round(sum(self._seconds.values()))
        parts = ", ".join(f"{name} {share}%" for name, share in shares.items())
        return f"time {datetime.timedelta(seconds=seconds)}: {parts}"


def seconds_since_process_start() -> float:
    """Returns the age of this process in seconds; 0 where it cannot be read."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            # The name of the program, in parentheses, may contain spaces.
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime - started)
