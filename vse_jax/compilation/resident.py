"""Training steps whose features are in the devices' memory, without a dataset."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vse_jax import parallel
from vse_jax.compilation import shapes
from vse_jax.compilation.topology import Topology
from vse_jax.errors import InputError
from vse_jax.feature_packing import Packing, gigabytes


class Resident(NamedTuple):
    """The table of features on the devices of a topology; see `feature_packing`.

    Attributes:
      packing: how a record is stored.
      images: number of records.
      devices: number of devices.
      with_source: whether regions are dropped at random.
    """

    packing: Packing
    images: int
    devices: int
    with_source: bool

    @property
    def rows(self) -> int:
        """Records on each device."""
        return parallel.rows_per_device(self.images, self.devices)

    @property
    def device_bytes(self) -> int:
        """Bytes of the table on each device."""
        return self.rows * self.packing.row_bytes

    def arithmetic(self) -> str:
        """Returns what the table needs, such as `2.1 GB on each of 8 devices (...)`."""
        return (
            f"{gigabytes(self.device_bytes)} on each of {self.devices} devices "
            f"({self.images:,} images of {self.packing.row_bytes:,} bytes)"
        )

    def in_step(self, train_step: Callable) -> Callable:
        """Returns the per-device training step for batches of `arguments`."""
        return lambda state, batch: train_step(state, self.packing.with_content(batch))

    def arguments(
        self, batch: shapes.Shapes, devices: Sequence[jax.Device]
    ) -> shapes.Shapes:
        """Returns the shapes on the devices of a training batch and the table.

        Args:
          batch: shapes of the batch with its content, over all devices.
          devices: devices of the topology.
        """
        planned = dict(batch)
        content = planned.pop("regions" if "regions" in batch else "feature")
        size, *per_image = content.shape
        planned["image_index"] = jax.ShapeDtypeStruct((size,), jnp.int32)
        if self.with_source and "regions" in batch:
            shape = (size, per_image[0])
            planned["region_source"] = jax.ShapeDtypeStruct(shape, jnp.int32)
        table = (self.devices, self.rows, *self.packing.row_shape)
        return parallel.shapes_of_rows(planned, devices) | {
            "table": jax.ShapeDtypeStruct(table, jnp.uint32)
        }


def resident_features(
    config: ml_collections.ConfigDict, devices: int
) -> Resident | None:
    """Returns the table of features; None if features are streamed.

    Args:
      config: see `configs/common.py`; `compile.images` images.
      devices: number of devices.

    Raises:
      InputError: if the configuration trains on photos.
    """
    if not config.data.device_resident:
        return None
    if config.model.backbone.name:
        raise InputError(
            "config.data.device_resident is True, but config.model.backbone.name is "
            f"{config.model.backbone.name!r}, which trains on photos; set it to False"
        )
    batch = shapes.train_batch(config, 1, 2)
    key = "regions" if "regions" in batch else "feature"
    # Features are stored in float16, as --mode=extract writes them.
    packing = Packing(key, batch[key].shape[1:], np.float16)
    # Views choose their regions after the layers that see all of them.
    with_source = config.data.augment and config.loss.views == 1
    return Resident(packing, config.compile.images, devices, with_source)


def check_fits(resident: Resident | None, topology: Topology) -> None:
    """Refuses a table that is larger than a device's memory, before any compilation.

    Raises:
      InputError: with the arithmetic.
    """
    if resident is None or resident.device_bytes <= topology.chip.hbm_bytes:
        return
    raise InputError(
        "config.data.device_resident is True, but the features need "
        f"{resident.arithmetic()}, and a device of {topology.name} has "
        f"{gigabytes(topology.chip.hbm_bytes)}; choose a topology with more devices, "
        "or set it to False"
    )
