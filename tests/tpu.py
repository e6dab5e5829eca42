"""Devices of TPU topologies that are not present, from libtpu's compiler."""

import pytest

# Without these, libtpu asks a metadata server which TPU this is.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(topology: str) -> list:
    """Returns the devices of a topology, such as `v5e:2x4`; skips without libtpu."""
    pytest.importorskip("libtpu", reason="the TPU compiler, libtpu, is not installed")
    from jax.experimental import topologies

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return described.devices
