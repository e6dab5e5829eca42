"""Logs of training: curves, one line per interval, and warnings."""

import contextlib
import datetime
import logging
import time
from collections.abc import Callable, Iterator

import jax
import ml_collections
import numpy as np

from vse_jax import parallel
from vse_jax.errors import TrainingError
from vse_jax.losses import mines_negatives

logger = logging.getLogger(__name__)

STEPS_IN_FLIGHT = 2  # more would only keep more batches on the device
COLLAPSE_TOLERANCE = 0.01  # as a fraction of the margin
LONG_WAIT = 0.2  # share of an interval
# A shorter interval is not judged, since a few short steps vary by chance.
_STEPS_TO_JUDGE, _SECONDS_TO_JUDGE = 10, 1.0


class StepLog:
    """Collects the metrics of steps and reports their means at intervals."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        steps_per_epoch: int,
        num_steps: int,
        writer,
        how_to_resume: Callable[[], str],
    ):
        """Starts the clock; warns of batches from which nothing can be learned.

        Args:
          config: configuration of the run.
          steps_per_epoch: number of steps per epoch.
          num_steps: number of steps of the whole training.
          writer: a `clu.metric_writers.MetricWriter`.
          how_to_resume: returns the part of an error message that names the checkpoint
            to resume from.
        """
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._num_steps = num_steps
        self._writer = writer
        self._how_to_resume = how_to_resume
        self._watch = CollapseWatch(config)
        self._in_flight = []  # (step, metrics still on the device)
        self._metrics = []  # of the current interval, on the host
        self._pairs_per_second = 0.0
        self._is_first_step = True
        self._has_warned_of_wait = False
        if config.batch_size == 1 and config.loss.name != "sigmoid":
            logger.warning(
                "config.batch_size is 1, so there are no negatives: the %s loss is 0 "
                "and has no gradient; set config.batch_size to 2 or more",
                config.loss.name,
            )
        self._restart_clock()

    def is_idle(self) -> bool:
        """Returns whether the devices have finished all steps."""
        return not self._in_flight or self._in_flight[-1][1]["loss"].is_ready()

    def waited(self, seconds: float) -> None:
        """Adds seconds in which the devices waited for the host."""
        self._seconds_waited += seconds

    def add(self, step: int, metrics: dict) -> None:
        """Adds the metrics of a step and waits for those of earlier steps.

        Up to `STEPS_IN_FLIGHT` steps remain pending.

        Raises:
          TrainingError: if the loss or gradient norm of an earlier step is not finite.
        """
        self._in_flight.append((step, metrics))
        if self._is_first_step:
            self._end_first_step(metrics)
        else:
            self._timed_steps += 1
        while len(self._in_flight) > STEPS_IN_FLIGHT:
            self._fetch(*self._in_flight.pop(0))

    def report(self, step: int) -> None:
        """Writes and logs the mean metrics of the interval that ends with `step`.

        Raises:
          TrainingError: if a loss or gradient norm of the interval is not finite.
        """
        while self._in_flight:
            self._fetch(*self._in_flight.pop(0))
        if not self._metrics:
            return  # the last step was reported
        means = {
            name: float(np.mean([metrics[name] for metrics in self._metrics]))
            for name in self._metrics[0]
        }
        seconds = time.perf_counter() - self._started
        if self._timed_steps:
            pairs = self._timed_steps * self._config.batch_size
            self._pairs_per_second = pairs / seconds
        means["pairs_per_second"] = self._pairs_per_second
        means["host_wait"] = min(1.0, self._seconds_waited / max(seconds, 1e-9))
        self._writer.write_scalars(step, means)
        logger.info("%s", self._line(step, means))
        self._warn_of_wait(step, means["host_wait"])
        self._metrics = []
        self._restart_clock()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Returns a context whose time does not count in the speed."""
        yield
        self._restart_clock()

    def _end_first_step(self, metrics):
        """Excludes compilation from the speed."""
        jax.block_until_ready(metrics)
        logger.info(
            "first step after %.0f s, including compilation",
            time.perf_counter() - self._started,
        )
        self._is_first_step = False
        self._restart_clock()

    def _restart_clock(self):
        self._started = time.perf_counter()
        self._timed_steps = 0
        self._seconds_waited = 0.0

    def _warn_of_wait(self, step, share):
        """Warns once per run if the devices waited long for the host."""
        is_long_enough = (
            self._timed_steps >= _STEPS_TO_JUDGE
            or self._seconds_waited >= _SECONDS_TO_JUDGE
        )
        if share <= LONG_WAIT or not is_long_enough or self._has_warned_of_wait:
            return
        if not parallel.is_primary_host():
            return
        self._has_warned_of_wait = True
        logger.warning(
            "the devices waited for the host in %.0f%% of the time up to step %d; %s",
            100 * share,
            step,
            _how_to_feed(self._config),
        )

    def _fetch(self, step, metrics):
        metrics = parallel.unreplicate(metrics)
        loss = float(metrics["loss"])
        for name in ("loss", "gradient_norm"):
            if not np.isfinite(metrics[name]):
                raise TrainingError(
                    f"the {name.replace('_', ' ')} is {metrics[name]} at step {step}; "
                    f"{self._how_to_resume()}; try a smaller "
                    "config.optimizer.learning_rate or config.optimizer.gradient_clip"
                )
        self._watch.add(step, loss, float(metrics["gap"]))
        self._metrics.append(metrics)

    def _line(self, step, means):
        left = "-"
        if self._pairs_per_second:
            pairs = (self._num_steps - step) * self._config.batch_size
            seconds = round(pairs / self._pairs_per_second)
            left = str(datetime.timedelta(seconds=seconds))
        return (
            f"step {step:,}/{self._num_steps:,}  "
            f"epoch {step / self._steps_per_epoch:.2f}  "
            f"loss {means['loss']:.4f}  {_of_loss(means)}"
            f"{means['pairs_per_second']:.0f} pairs/s  "
            f"host wait {means['host_wait']:.0%}  {left} left"
        )


def _of_loss(means: dict[str, float]) -> str:
    """Returns what the line shows of the loss besides its value."""
    formats = {"hard_share": "hard-mined {:.0%}  ", "scale": "scale {:.2f}  "}
    return "".join(
        text.format(means[name]) for name, text in formats.items() if name in means
    )


def _how_to_feed(config: ml_collections.ConfigDict) -> str:
    """Returns advice against a host that is too slow for the devices."""
    if config.model.backbone.name:
        return (
            "use a host with more cores, prepare smaller photos, or train on extracted "
            "features (--mode=extract)"
        )
    if config.data.device_resident:
        return "use a host with more or faster cores"
    return (
        "set config.data.device_resident=True if the features fit into the devices' "
        "memory, or use a host with more cores or a faster disk"
    )


class CollapseWatch:
    """Warns if all similarities stay equal during training.

    In this local minimum the gradient vanishes. The collapse is detected by the gap
    between an anchor's positive and its hardest negative, because no value of the loss
    identifies it; see docs/design.md. The limit of the gap is 1% of
    `config.loss.margin`, also for losses without a margin.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        self._config = config
        self._steps = 0

    def add(self, step: int, loss: float, gap: float) -> None:
        """Adds a step; warns once a collapse has lasted `config.stuck_steps` steps.

        Args:
          step: step, counted from 1.
          loss: loss of the step.
          gap: mean of `|positive - hardest|` over the anchors that have a negative.
        """
        collapsed = gap <= COLLAPSE_TOLERANCE * self._config.loss.margin
        # A batch of one pair has no negatives and therefore no gap.
        collapsed = collapsed and self._config.batch_size > 1
        self._steps = self._steps + 1 if collapsed else 0
        if collapsed and self._steps == self._config.stuck_steps:
            logger.warning(
                "all similarities have been equal for %d steps (up to step %d, loss "
                "%.4g), so the gradient vanishes; try %s, or a larger "
                "config.batch_size",
                self._steps,
                step,
                loss,
                _how_to_separate(self._config),
            )


def _how_to_separate(config: ml_collections.ConfigDict) -> str:
    """Returns advice against equal similarities; `selective` mining avoids them."""
    if mines_negatives(config.loss):
        return (
            "config.loss.mining=selective, config.loss.warmup_mining=mean with "
            "config.loss.warmup_epochs=1"
        )
    return "a smaller config.optimizer.learning_rate, config.optimizer.warmup_epochs=1"
