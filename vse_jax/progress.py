"""Progress of long operations: a bar on terminals, log lines elsewhere."""

import datetime
import logging
import time

import tqdm

from vse_jax import termination

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows progress; a context manager, which closes the bar.

    On a terminal it shows a bar. Elsewhere it logs a line every 30 seconds. The speed
    is measured from the first `add`, so that compilation before it does not count.
    """

    def __init__(self, what: str, total: int, unit: str, *, done: int = 0):
        """Starts to show progress.

        Args:
          what: name of the operation, such as `extracting`.
          total: number of items.
          unit: plural name of an item, such as `images`.
          done: number of items that an earlier run has finished.
        """
        self._what, self._total, self._unit = what, total, unit
        self._done = done
        self._counted = 0  # since the first `add`
        self._first = self._last_line = None
        self._bar = tqdm.tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=f" {unit}",
            dynamic_ncols=True,
            disable=None,  # disabled if standard error is not a terminal
            leave=False,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()

    def add(self, count: int = 1) -> None:
        """Adds finished items, of which there may be none."""
        termination.check()
        now = time.perf_counter()
        self._done += count
        self._bar.update(count)
        if self._first is None:
            self._first = self._last_line = now
            return
        self._counted += count
        is_due = now - self._last_line >= SECONDS_BETWEEN_LINES
        if self._bar.disable and is_due and self._counted:
            self._last_line = now
            self._log(self._counted / (now - self._first))

    def _log(self, speed):
        seconds = round((self._total - self._done) / speed)
        logger.info(
            "%s: %s/%s %s  %.1f %s/s  %s left",
            self._what,
            f"{self._done:,}",
            f"{self._total:,}",
            self._unit,
            speed,
            self._unit,
            datetime.timedelta(seconds=seconds),
        )
