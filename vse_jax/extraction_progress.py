"""How far an extraction is: a bar on terminals, lines elsewhere."""

import datetime
import logging
import time

import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 30.0


class ExtractionProgress:
    """Counts images; a context manager, as the bar has to be closed."""

    def __init__(self, total: int, missing: int):
        """Shows what an earlier run has done.

        Args:
          total: images in all.
          missing: images still to be done.
        """
        self._total = total
        self._left = missing
        self._since_first = 0
        self._first = self._last_line = None
        self._bar = tqdm.tqdm(
            desc="extracting",
            total=total,
            initial=total - missing,
            unit=" images",
            dynamic_ncols=True,
            disable=None,  # where standard error is no terminal
            leave=False,
        )
        if missing < total:
            logger.info(
                "%s of %s images are there already",
                *(f"{count:,}" for count in (total - missing, total)),
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()

    def add(self, images: int) -> None:
        """Counts images that are done."""
        now = time.perf_counter()
        self._left -= images
        self._bar.update(images)
        if self._first is None:  # the compilation stays out of the speed
            self._first = self._last_line = now
            return
        self._since_first += images
        is_due = now - self._last_line >= _SECONDS_BETWEEN_LINES
        if self._bar.disable and is_due:
            self._last_line = now
            self._log(self._since_first / (now - self._first))

    def _log(self, speed):
        left = datetime.timedelta(seconds=round(self._left / speed))
        logger.info(
            "extracted %s/%s images  %.1f images/s  %s left",
            *(f"{count:,}" for count in (self._total - self._left, self._total)),
            speed,
            left,
        )
