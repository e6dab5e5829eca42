"""Profiles a few steps of a training, for TensorBoard."""

import logging
from typing import Any

import jax

from vse_jax.errors import InputError, one_line

logger = logging.getLogger(__name__)

STEPS = 5  # that are profiled


class Profile:
    """A context manager that profiles `STEPS` steps, or those up to its end.

    A profile that cannot be written is logged, since the training does not need it.
    """

    def __init__(self, folder: str, first_step: int, num_steps: int):
        """Profiles nothing yet.

        Args:
          folder: folder of TensorBoard's files.
          first_step: first step to profile, counted from 1; 0 for none.
          num_steps: number of steps of the whole training.

        Raises:
          InputError: if the training has fewer steps.
        """
        if first_step > num_steps:
            raise InputError(
                f"config.profile_at_step is {first_step}, but the training has "
                f"{num_steps} steps; set it to less"
            )
        self._folder = folder
        self._first_step = first_step
        self._is_running = False
        self._has_begun = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception):
        self._stop()

    def before_step(self, step: int, state: Any) -> None:
        """Starts or stops, if it is time to.

        Args:
          step: number of the step that follows, counted from 1.
          state: arrays on the devices, which are ready when all earlier steps are done.
        """
        if not self._has_begun and 0 < self._first_step < step:
            logger.info(
                "config.profile_at_step is %d, which is done: nothing is profiled; to "
                "profile this run, set it to at least %d",
                self._first_step,
                step,
            )
        self._has_begun = True
        if step in (self._first_step, self._first_step + STEPS):
            jax.block_until_ready(state)
            self._stop()
        if step == self._first_step:
            self._start()

    def _start(self):
        try:
            jax.profiler.start_trace(self._folder)
            self._is_running = True
        except (OSError, RuntimeError) as error:
            logger.warning("no profile can be made: %s", one_line(error))

    def _stop(self):
        if not self._is_running:
            return
        self._is_running = False
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            logger.warning(
                "the profile cannot be written to %s: %s", self._folder, one_line(error)
            )
