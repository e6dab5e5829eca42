"""Figures of TPU chips, from Google's data sheets."""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """What a chip can hold and do.

    Attributes:
      hbm_bytes: size of its memory.
      hbm_bandwidth: bytes per second between its memory and its cores.
      peak_flops: bfloat16 operations per second.
      clock: cycles per second.
      ici_bandwidth: bytes per second that it can send to other chips.
      axes: number of axes of a topology.
    """

    hbm_bytes: float
    hbm_bandwidth: float
    peak_flops: float
    clock: float
    ici_bandwidth: float
    axes: int

    def shared_by(self, devices: int) -> "Chip":
        """Returns the share of each of the devices of a chip; all run at its clock."""
        return self._replace(
            hbm_bytes=self.hbm_bytes / devices,
            hbm_bandwidth=self.hbm_bandwidth / devices,
            peak_flops=self.peak_flops / devices,
            ici_bandwidth=self.ici_bandwidth / devices,
        )


CHIPS = {
    "v4": Chip(32 * GIB, 1228e9, 275e12, 1.05e9, 300e9, axes=3),
    "v5e": Chip(16 * GIB, 819e9, 197e12, 1.5e9, 200e9, axes=2),
    "v5p": Chip(95 * GIB, 2765e9, 459e12, 1.75e9, 600e9, axes=3),
    "v6e": Chip(32 * GIB, 1638e9, 918e12, 1.75e9, 400e9, axes=2),
}
