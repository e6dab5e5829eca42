"""Reads, parses and decodes batches in parallel, in the threads of TensorFlow."""

import functools
import os
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vse_jax.data import records
from vse_jax.data.training_plan import Batch

_AHEAD = 2  # finished batches that are buffered
_FEW = 8  # batches that are read at once whatever their size
_BYTES_AT_ONCE = 4 * 2**30  # of the host's memory, for more batches than that

# Chooses the records of a step, and makes the arrays that need no record.
Plan = Callable[[int], tuple[np.ndarray, Batch]]
# Adds the image content to a batch: (serialized examples, batch) -> batch.
Parse = Callable[[tf.Tensor, dict[str, tf.Tensor]], dict[str, tf.Tensor]]


def batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    parse: Parse,
    row_bytes: int,
    steps: range,
    plan: Plan,
) -> Iterator[Batch]:
    """Returns an iterator over batches; closing it stops its threads.

    Args:
      builder: a prepared dataset.
      split: name of the split.
      parse: adds the image content to a batch.
      row_bytes: size of the image content of one row.
      steps: steps to plan.
      plan: must return arrays of the same names, dtypes and batch size at every step.
    """
    reader = records.RecordReader(builder, split)
    image, example = plan(0)

    def read(step: np.int64) -> list[np.ndarray]:
        image, batch = plan(int(step))
        return [reader.read(image), *batch.values()]

    def parse_step(serialized: tf.Tensor, *arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        serialized.set_shape([len(image)])
        for array, like in zip(arrays, example.values(), strict=True):
            array.set_shape([len(image)] + [None] * (like.ndim - 1))
        return parse(serialized, dict(zip(example, arrays, strict=True)))

    parallel_calls = at_once(len(image) * row_bytes)
    types = [tf.string, *(array.dtype for array in example.values())]
    options = {"num_parallel_calls": parallel_calls, "deterministic": True}
    dataset = (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(
            lambda step: tuple(tf.numpy_function(read, [step], types, stateful=False)),
            **options,
        )
        .map(parse_step, **options)
        .prefetch(_AHEAD)
    )
    return Reading(records.without_autotuning(dataset), builder, split)


def planned_batches(steps: range, plan: Plan) -> Iterator[Batch]:
    """Yields what is planned, without image content.

    It plans in the caller's thread: with many threads, Python's lock and TensorFlow's
    calls would cost more than the plan.

    Args:
      steps: steps to plan.
      plan: see `batches`.

    Yields:
      Batches of the plan's arrays, with image_index, int32 `[batch]`: record numbers.
    """
    for step in steps:
        image, batch = plan(step)
        yield batch | {"image_index": image.astype(np.int32)}


def at_once(batch_bytes: int) -> int:
    """Returns the number of batches to read, and to decode, in parallel.

    Args:
      batch_bytes: size of a batch. While it is read, its records are in memory too.
    """
    affordable = _BYTES_AT_ONCE // (2 * max(1, batch_bytes))
    return min(os.cpu_count() or 1, max(_FEW, affordable))


class Reading(Iterator[Batch]):
    """Iterates over a dataset until it ends, is closed, or the program exits.

    Threads that call Python while the interpreter shuts down would hang it. They are
    stopped before that, even if the iterator is still referenced.
    """

    def __init__(
        self, dataset: tf.data.Dataset, builder: tfds.core.DatasetBuilder, split: str
    ):
        self._unreadable = functools.partial(records.unreadable, builder, split)
        self._open = [dataset.as_numpy_iterator()]
        weakref.finalize(self, self._open.clear)

    def __next__(self) -> Batch:
        if not self._open:
            raise StopIteration
        try:
            return next(self._open[0])
        except StopIteration:
            self.close()
            raise
        except tf.errors.OpError as error:
            self.close()
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Stops reading; the iterator yields no more batches."""
        self._open.clear()
