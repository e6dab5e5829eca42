"""Devices of TPU topologies that are not present, from libtpu's compiler."""

import pytest

from vse_jax.compilation import topology


def devices(name: str) -> list:
    """Returns the devices of a topology, such as `v5e:2x4`; skips without libtpu."""
    pytest.importorskip("libtpu", reason="the TPU compiler, libtpu, is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in topology.ENVIRONMENT.items():
            patch.setenv(variable, value)
        return topology.get_topology(name).devices
