"""Puts training batches on the devices one step ahead, and measures the wait."""

import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

_POLL_SECONDS = 0.001


class Feed:
    """Iterates over batches on the devices.

    While a step runs, a thread takes the next batch of the host and puts it on the
    devices. If the devices have finished all steps and that batch is not there, they
    wait for the host. A host that is late while they are still busy costs nothing.
    """

    def __init__(
        self,
        batches: Iterator[dict],
        put: Callable[[dict], Any],
        is_idle: Callable[[], bool],
    ):
        """Starts to fetch the first batch.

        Args:
          batches: host batches with a method `close`.
          put: starts to copy a host batch to the devices; returns the arrays.
          is_idle: returns whether the devices have finished all steps.
        """
        self._batches = batches
        self._put = put
        self._is_idle = is_idle
        self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next = self._pool.submit(self._fetch)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *exception):
        self.close()

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yields each batch and the seconds that the devices waited for it.

        Raises what the host's batches raise.
        """
        while True:
            waited = self._wait()
            batch = self._next.result()
            if batch is None:
                return
            self._next = self._pool.submit(self._fetch)
            yield batch, waited

    def close(self) -> None:
        """Ends the thread and closes the host's batches."""
        self._pool.shutdown(cancel_futures=True)
        self._batches.close()

    def _fetch(self):
        batch = next(self._batches, None)
        return None if batch is None else self._put(batch)

    def _wait(self) -> float:
        idle_since = None
        while not self._next.done():
            if idle_since is None and self._is_idle():
                idle_since = time.perf_counter()
            futures.wait([self._next], timeout=_POLL_SECONDS)
        return 0.0 if idle_since is None else time.perf_counter() - idle_since
