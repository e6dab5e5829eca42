"""Which kernels XLA tries for matrix products on NVIDIA GPUs.

XLA's autotuner compiles dozens of Triton kernels for every product and keeps the
fastest. For float32 at full precision, without tensor cores, one of them takes about a
second of CPU time, and a training step has about a hundred products: four trainings
with an H200 and 16 cores were still compiling after two minutes. The kernels of cuBLAS
are compiled already.
"""

import importlib.metadata
import os
from collections.abc import MutableMapping

_FLAGS = "XLA_FLAGS"
_TRITON = "--xla_gpu_enable_triton_gemm"


def use_cublas(dtype: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes XLA compute float32 products on NVIDIA GPUs by cuBLAS alone.

    Call it before JAX has a backend: XLA reads the variable once. Without JAX's plugin
    for CUDA nothing changes, and a choice that the variable has already is kept.

    Args:
      dtype: of the encoders' products. With `bfloat16`, XLA's own choice remains.
      environment: the variables, of which `XLA_FLAGS` is extended.
    """
    flags = environment.get(_FLAGS, "")
    if dtype == "bfloat16" or _TRITON in flags or not _has_cuda():
        return
    environment[_FLAGS] = f"{flags} {_TRITON}=false".strip()


def _has_cuda():
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return any("cuda" in plugin.name for plugin in plugins)
