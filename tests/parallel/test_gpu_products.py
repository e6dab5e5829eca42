import importlib.metadata
import os
import subprocess
import sys

import pytest

from vse_jax.parallel import gpu_products

FLAG = "--xla_gpu_enable_triton_gemm=false"


@pytest.fixture
def install(monkeypatch):
    """A function that makes the plugins of JAX those of the given names."""

    def replace(*names):
        def entry_points(*, group):
            return [importlib.metadata.EntryPoint(name, name, group) for name in names]

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return replace


@pytest.mark.parametrize("dtype", ["", "float32"])
@pytest.mark.parametrize("plugin", ["xla_cuda12", "xla_cuda13"])
def test_float32_products_are_those_of_cublas(install, plugin, dtype):
    install(plugin)
    environment = {"XLA_FLAGS": "--xla_dump_to=folder"}
    gpu_products.use_cublas(dtype, environment)
    assert environment == {"XLA_FLAGS": f"--xla_dump_to=folder {FLAG}"}


@pytest.mark.parametrize(
    ("plugins", "dtype", "flags"),
    [
        ((), "float32", ""),
        (("xla_rocm7",), "float32", ""),
        (("xla_cuda13",), "bfloat16", ""),
        (("xla_cuda13",), "float32", "--xla_gpu_enable_triton_gemm=true"),
    ],
    ids=["no GPU", "AMD", "bfloat16", "chosen by the user"],
)
def test_flags_remain(install, plugins, dtype, flags):
    install(*plugins)
    environment = {"XLA_FLAGS": flags}
    gpu_products.use_cublas(dtype, environment)
    assert environment == {"XLA_FLAGS": flags}


def test_xla_knows_the_flag():
    """XLA ends a process whose flags it does not know."""
    for flag, succeeds in ((FLAG, True), (f"{FLAG} --xla_unknown=1", False)):
        process = subprocess.run(
            [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"],
            env=os.environ | {"XLA_FLAGS": flag},
            capture_output=True,
            check=False,
        )
        assert (process.returncode == 0) == succeeds, flag
