"""The features of the training split in the memory of all devices."""

import logging
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow as tf

from vse_jax import parallel
from vse_jax.data import records
from vse_jax.data.split_index import split_index
from vse_jax.errors import InputError, is_lack_of_device_memory
from vse_jax.experiment import Experiment
from vse_jax.feature_packing import Packing, gigabytes
from vse_jax.progress import Progress

logger = logging.getLogger(__name__)

_BYTES_AT_ONCE = 16 * 2**20  # read in one go
_READS_AT_ONCE = 4


class ResidentFeatures:
    """Features of the training split; padded to the largest number of regions.

    Attributes:
      packing: how a record is stored.
    """

    def __init__(self, experiment: Experiment):
        """Checks the dataset; reads no features.

        Raises:
          InputError: if the dataset has photos, or does not fit into the memory.
        """
        data = experiment.config.data
        self._builder, self._split = experiment.builder, data.train_split
        content = records.content_of(self._builder)
        if content.key == "image":
            raise InputError(
                f"config.data.device_resident is True, but {self._builder.data_dir} "
                "has photos; set it to False, or extract features (--mode=extract)"
            )
        index = split_index(self._builder, self._split, data.tokenizer)
        self._records = index.image_count
        self._regions = int(index.region_count.max())
        spec = records.parsed_spec(content, self._regions)
        self.packing = Packing(
            content.key,
            tuple(spec.shape),
            np.float16 if content.dtype == tf.float16 else spec.dtype.as_numpy_dtype,
        )
        self._check_memory()

    def _check_memory(self):
        rows = parallel.rows_per_device(self._records)
        needed, memory = rows * self.packing.row_bytes, parallel.device_memory()
        if needed > memory.free:
            raise self._too_large(needed, memory)

    def _too_large(self, needed, memory):
        devices = len(parallel.all_devices())
        return InputError(
            f"config.data.device_resident is True, but the features of "
            f"{self._builder.data_dir} need {gigabytes(needed)} on each of {devices} "
            f"devices of {gigabytes(memory.total)}, of which "
            f"{gigabytes(memory.free)} are free ({self._records:,} images of "
            f"{self.packing.row_bytes:,} bytes); use more devices, or set it to False"
        )

    def read(self) -> jax.Array:
        """Reads this host's part into its devices' memory.

        Returns:
          The table: a global array `[devices, images, words / 128, 128]` uint32.

        Raises:
          InputError: if it does not fit, or a record cannot be read.
        """
        self._check_memory()
        total = parallel.rows_of_this_host(self._records)
        with Progress("reading features to the devices", total, "images") as progress:

            def read(part: range) -> Iterator[np.ndarray]:
                for contents in self._contents(part):
                    yield self.packing.pack(contents)
                    progress.add(len(contents))

            table = self._fill_table(read)
        logger.info(
            "the features of %s images are in the devices' memory, %s on each",
            f"{self._records:,}",
            gigabytes(table.nbytes // len(table)),
        )
        parallel.wait_for_hosts("read the features")
        return table

    def _fill_table(self, read):
        memory, row_shape = parallel.device_memory(), self.packing.row_shape
        try:
            return parallel.fill_table(self._records, row_shape, np.uint32, read)
        except jax.errors.JaxRuntimeError as error:
            if not is_lack_of_device_memory(error):
                raise
            # What is free may be in pieces.
            needed = parallel.rows_per_device(self._records) * self.packing.row_bytes
            raise self._too_large(needed, memory) from error

    def _contents(self, part: range) -> Iterator[np.ndarray]:
        at_once = max(1, _BYTES_AT_ONCE // self.packing.row_bytes)
        numbers = [
            np.arange(start, min(start + at_once, part.stop))
            for start in range(part.start, part.stop, at_once)
        ]
        return records.read_contents(
            self._builder, self._split, numbers, self._regions, _READS_AT_ONCE
        )
