"""The devices of topologies, and what is refused."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vse_jax.compilation import topology
from vse_jax.compilation.chips import CHIPS
from vse_jax.errors import InputError
from vse_jax.models.kernels.platforms import per_platform

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restores the environment after each test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)
    topology.set_environment()


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "chips", "hosts"),
    [("v5e:1x1", 1, 1), ("v5e:2x4", 8, 2), ("v5e:4x8", 32, 8), ("v5p:2x2x1", 4, 1)],
)
def test_devices(name, chips, hosts):
    found = topology.get_topology(name)
    assert len(found.devices) == chips
    indices = [device.process_index for device in found.devices]
    assert indices == sorted(indices)
    assert len(set(indices)) == hosts
    assert found.chip == CHIPS[name.partition(":")[0]]


@needs_libtpu
def test_two_devices_share_a_chip_of_v4():
    found = topology.get_topology("v4:2x2x1")
    assert len(found.devices) == 8
    assert found.chip.hbm_bytes * 2 == CHIPS["v4"].hbm_bytes
    assert found.chip.clock == CHIPS["v4"].clock


@pytest.mark.parametrize("name", ["", "v5e", "v5e:2x2x1", "v5p:2x2", "v5e:0x4", "h100"])
def test_an_unknown_topology_is_refused_with_known_ones(name):
    with pytest.raises(InputError, match=r"--topology is .*v5e:2x4") as error:
        topology.get_topology(name)
    assert "\n" not in str(error.value)


@needs_libtpu
def test_a_layout_that_libtpu_does_not_know_is_refused_with_known_ones():
    with pytest.raises(InputError, match=r"'v5e:3x9', which libtpu .*v5e:2x4"):
        topology.get_topology("v5e:3x9")


def test_absent_libtpu_is_refused_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "libtpu==.*"jax\[tpu\]"'):
        topology.get_topology("v5e:2x4")


@needs_libtpu
def test_the_form_for_accelerators_is_lowered():
    devices = np.array(topology.get_topology("v5e:2x2").devices)
    sharding = NamedSharding(Mesh(devices, ("devices",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=sharding)
    function = jax.jit(lambda x: per_platform(jnp.sin, jnp.tanh, x, plain=jnp.sin))
    text = function.lower(x).compile().as_text()
    assert "tanh(" in text
    assert "sine(" not in text
