import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.evaluation import score_tiles
from vse_jax.parallel import compiler

CUBLAS = {"xla_gpu_enable_triton_gemm": False}


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes the devices look like GPUs."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.mark.parametrize(
    ("precision", "options"), [("float32", CUBLAS), (None, None), ("bfloat16", None)]
)
def test_float32_products_of_models_are_those_of_cublas(on_gpu, precision, options):
    with jax.default_matmul_precision(precision):
        assert compiler.options_of_steps() == options


def test_tpus_have_no_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with jax.default_matmul_precision("float32"):
        assert compiler.options_of_steps() is None


def test_xla_knows_the_options_of_gpus():
    """Those of other names are refused, on CPUs too."""
    compiled = jax.jit(jnp.sin, compiler_options=CUBLAS)
    assert compiled(0.0) == 0
    unknown = jax.jit(jnp.sin, compiler_options={"xla_gpu_unknown": False})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_unknown"):
        unknown(0.0)


def test_functions_in_float32_have_the_options(on_gpu, monkeypatch):
    given = []
    jit = jax.jit

    def recorded(function, **options):
        given.append(options)
        return jit(function, **options)

    monkeypatch.setattr(jax, "jit", recorded)
    power = compiler.jit_in_float32(lambda x, *, n: x**n, static_argnames="n")
    assert (power(2.0, n=3), power(2.0, n=2)) == (8, 4)
    assert [options["compiler_options"] for options in given] == [CUBLAS]


def test_scores_on_gpus(on_gpu, monkeypatch):
    """A function with options of its own must not be called in a compiled one."""
    tile_of_scores = compiler.jit_in_float32(
        score_tiles.tile_of_scores.__wrapped__, static_argnames="similarity"
    )
    monkeypatch.setattr(score_tiles, "tile_of_scores", tile_of_scores)
    rng = np.random.default_rng(0)
    images, captions = (rng.normal(size=(n, 4)).astype(np.float32) for n in (3, 5))
    rows, columns = np.repeat(range(3), 5), np.tile(range(5), 3)
    sides = score_tiles.sides(images, captions)
    scores = score_tiles.scores_of_pairs(*sides, rows, columns, "cosine")
    np.testing.assert_allclose(scores.reshape(3, 5), images @ captions.T, rtol=1e-5)
