import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax import parallel
from vse_jax.models.backbones import resnet
from vse_jax.models.kernels import equal_layers

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIM = 4
PRODUCTS = jax.checkpoint_policies.dots_saveable
as_loop = functools.partial(equal_layers.as_loop, stored=PRODUCTS)


def layer(variables, x):
    x = jnp.tanh(x @ variables["kernel"])
    return x, {"mean": variables["mean"] + x.mean(0)}


def with_gradients(function, variables, x):
    def total(variables, x):
        out, updated = function(layer, variables, x)
        return jnp.square(out).sum(), (out, updated)

    gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
    return jax.jit(gradient)(variables, x)


def test_loop_equals_the_sequence():
    rng = np.random.default_rng(0)
    variables = [
        {"kernel": rng.normal(size=(DIM, DIM)), "mean": rng.normal(size=DIM)}
        for _ in range(3)
    ]
    variables = jax.tree.map(np.float32, variables)
    x = rng.normal(size=(2, DIM)).astype(np.float32)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        with_gradients(as_loop, variables, x),
        with_gradients(equal_layers.in_sequence, variables, x),
    )


@pytest.mark.parametrize("train", [False, True])
def test_resnet_as_loops_equals_the_sequence(monkeypatch, train):
    monkeypatch.setattr(resnet, "_STEM_FEATURES", 4)
    network = resnet.ResNet(
        (3, 4),
        pooled=True,
        dtype=jnp.float32,
        train=train,
        gather_over_devices=lambda array: array,
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), image)
    variables = jax.tree.map(
        lambda leaf: leaf * rng.uniform(0.8, 1.2, leaf.shape).astype(np.float32),
        variables,
    )
    direction = rng.normal(size=(2, 32)).astype(np.float32)

    def outputs(form):
        monkeypatch.setattr(resnet, "apply_equal_layers", form)

        @jax.jit
        def run(variables):
            def total(params):
                out, updated = network.apply(
                    {**variables, "params": params}, image, mutable=["batch_stats"]
                )
                return (out * direction).sum(), (out, updated)

            return jax.grad(total, has_aux=True)(variables["params"])

        return run(variables)

    def in_sequence(layer, variables, x, stored):
        del stored
        return equal_layers.in_sequence(layer, variables, x)

    plain, loop = outputs(in_sequence), outputs(equal_layers.as_loop)
    names = jax.tree.structure(variables["params"])
    assert jax.tree.structure(loop[0]) == names
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        loop,
        plain,
    )


def test_accelerators_compile_a_loop():
    def apply(variables, x):
        return equal_layers.apply_equal_layers(layer, variables, x, PRODUCTS)[0]

    variables = [{"kernel": np.eye(DIM), "mean": np.zeros(DIM)}] * 3
    traced = jax.jit(apply).trace(variables, np.ones((1, DIM)))
    for platform, loops in {"cpu": 0, "tpu": 1, "cuda": 1}.items():
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert lowered.count("stablehlo.while") == loops


@pytest.mark.parametrize(
    ("stored", "is_stored"),
    [
        (resnet.layers.STORED, False),
        (jax.checkpoint_policies.everything_saveable, True),
    ],
)
def test_resnet_stores_maps_in_float32_only_if_the_policy_does(
    monkeypatch, stored, is_stored
):
    monkeypatch.setattr(resnet, "_STEM_FEATURES", 4)
    monkeypatch.setattr(resnet.layers, "STORED", stored)
    network = resnet.ResNet(
        (4,),
        pooled=True,
        dtype=jnp.bfloat16,
        train=True,
        gather_over_devices=lambda array: array,
    )
    image = np.zeros((2, 32, 32, 3), np.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)

    def total(variables):
        return network.apply(variables, image, mutable=["batch_stats"])[0].sum()

    lowered = jax.jit(jax.grad(total)).trace(variables)
    text = lowered.lower(lowering_platforms=("tpu",)).as_text()
    # Three equal blocks; the maps of the first and second convolution of each.
    assert "tensor<3x2x8x8x4xbf16>" in text
    assert ("tensor<3x2x8x8x4xf32>" in text) == is_stored


def test_resnet_gathers_statistics_once(monkeypatch):
    monkeypatch.setattr(resnet, "_STEM_FEATURES", 4)
    create = functools.partial(
        resnet.ResNet, (4,), pooled=True, dtype=jnp.float32, train=True
    )
    image = np.zeros((2, 32, 32, 3), np.uint8)
    network = create(gather_over_devices=parallel.gather)
    variables = jax.eval_shape(
        create(gather_over_devices=lambda array: array).init, jax.random.key(0), image
    )

    def total(variables, image):
        return network.apply(variables, image, mutable=["batch_stats"])[0].sum()

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), (parallel.AXIS,))
    gradient = jax.shard_map(
        jax.grad(total),
        mesh=mesh,
        in_specs=(jax.P(), jax.P(parallel.AXIS)),
        out_specs=jax.P(),
        check_vma=False,
    )
    traced = jax.jit(gradient).trace(variables, image)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    normalizations = 1 + 4 + 3  # of the stem, the first block and the body of the loop
    assert text.count("stablehlo.all_gather") == normalizations
