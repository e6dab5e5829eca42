"""Training batches on the devices: read record by record, or kept in their memory."""

from collections.abc import Callable, Iterator

import jax

from vse_jax import parallel
from vse_jax.experiment import Experiment
from vse_jax.resident_features import ResidentFeatures


class StreamedData:
    """Batches whose image content is read for every step."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment

    def batches(self, start_step: int, num_steps: int) -> Iterator[dict]:
        """Returns this host's part of the training batches, as host arrays."""
        return self._experiment.train_batches(start_step, num_steps)

    def put(self, batch: dict) -> dict[str, jax.Array]:
        """Starts to copy this host's part of a batch to the devices."""
        return parallel.put_rows(batch)

    def in_step(self, train_step: Callable) -> Callable:
        """Returns the per-device training step for batches of `put`."""
        return train_step


class ResidentData:
    """Batches whose image content is in the devices' memory.

    The batches are equal to those of `StreamedData`, bit for bit.
    """

    def __init__(self, experiment: Experiment):
        """Reads nothing yet.

        Raises:
          InputError: if the dataset has photos, or does not fit into the memory.
        """
        self._experiment = experiment
        self._features = ResidentFeatures(experiment)
        self._table = None

    def batches(self, start_step: int, num_steps: int) -> Iterator[dict]:
        """Returns this host's part of the training batches without image content.

        The first call reads the training split into the devices' memory.

        Raises:
          InputError: if it does not fit, or a record cannot be read.
        """
        if not num_steps:
            return (batch for batch in ())
        if self._table is None:
            self._table = self._features.read()
        return self._experiment.train_batches(start_step, num_steps, with_content=False)

    def put(self, batch: dict) -> dict[str, jax.Array]:
        """Starts to copy this host's part of a batch to the devices."""
        return parallel.put_rows(batch) | {"table": self._table}

    def in_step(self, train_step: Callable) -> Callable:
        """Returns the per-device training step for batches of `put`."""

        def step(state, batch):
            return train_step(state, self._features.packing.with_content(batch))

        return step


def create_training_data(experiment: Experiment) -> StreamedData | ResidentData:
    """Returns the training data as `config.data.device_resident` says.

    Raises:
      InputError: see `ResidentData`.
    """
    if experiment.config.data.device_resident:
        return ResidentData(experiment)
    return StreamedData(experiment)
