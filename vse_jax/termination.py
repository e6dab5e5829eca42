"""SIGTERM, which a cloud sends before it takes a machine away."""

import signal

from vse_jax import parallel


class Termination:
    """Within it, SIGTERM is noted instead of ending the process."""

    def __enter__(self):
        self._received = False
        self._handler = None
        if parallel.is_single_host():  # else JAX has a handler of its own
            self._handler = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception):
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def _note(self, *unused):
        self._received = True

    def is_due(self, step: int) -> bool:
        """Whether to save and leave after `step`; the same on all hosts."""
        return parallel.agree_to_stop(self._received, step)
