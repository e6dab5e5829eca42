"""Options of the XLA compiler that differ from its defaults.

On GPUs, XLA's autotuner compiles dozens of Triton kernels for every product and keeps
the fastest. For float32 at full precision, without tensor cores, one of them takes
about a second of CPU time, and a training step has about a hundred products: four
trainings with an H200 and 16 cores were still compiling after two minutes. The kernels
of cuBLAS are compiled already.
"""

import functools
from collections.abc import Callable, Sequence

import jax

# Not YNNPACK for products of matrices: Eigen is about a fifth faster, and up to twice
# with few rows, as in a recurrence.
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,"
    "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
}
_GPU = {"xla_gpu_enable_triton_gemm": False}


def options_of_steps() -> dict | None:
    """Returns the options for programs of a model, as `jax.stages.Lowered` takes them.

    With bfloat16 on GPUs they are XLA's own, also for the few products in float32.
    """
    backend = jax.default_backend()
    if backend == "cpu":
        return _CPU
    is_float32 = jax.config.jax_default_matmul_precision == "float32"
    return _GPU if backend == "gpu" and is_float32 else None


def jit_in_float32(
    function: Callable, *, static_argnames: Sequence[str] | str = ()
) -> Callable:
    """`jax.jit` of a function whose products are in float32 at full precision.

    The function must not be called within another compiled one.

    Args:
      function: takes and returns pytrees of arrays.
      static_argnames: as those of `jax.jit`.
    """

    @functools.cache  # JAX knows its devices only when the function is called
    def jitted():
        options = _GPU if jax.default_backend() == "gpu" else None
        return jax.jit(
            function, static_argnames=static_argnames, compiler_options=options
        )

    @functools.wraps(function)
    def call(*args, **kwargs):
        return jitted()(*args, **kwargs)

    return call
