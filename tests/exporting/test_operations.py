"""Rules of single operations against JAX."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.exporting.exported import onnx_session
from vse_jax.errors import InputError
from vse_jax.exporting.onnx_graph.translate import translate

BATCH, LENGTH, DIM = 3, 5, 4
SHAPE = (BATCH, LENGTH, DIM)
FUNCTIONS = {
    "layer_norm": lambda x, n: (
        (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    ),
    "gelu": lambda x, n: jax.nn.gelu(x, approximate=False),
    "softmax": lambda x, n: jax.nn.softmax(x, axis=1),
    "clip": lambda x, n: jnp.clip(x, -0.5, 0.25),
    "power": lambda x, n: x**3 + jnp.abs(x) ** 1.5,
    "constants": lambda x, n: x * np.arange(DIM, dtype=np.float32) - 2 / (1 + x * x),
    "comparisons": lambda x, n: jnp.where((x != 0) & (x >= -0.5) | ~(x > 1), x, -1.0),
    "mask": lambda x, n: jnp.where(
        (jnp.arange(x.shape[1]) < n[:, None])[..., None], x, -jnp.inf
    ).max(1),
    "flip": lambda x, n: jnp.flip(x, axis=(1, 2)),
    "reversed_channels": lambda x, n: x[..., ::-1],
    "strided": lambda x, n: lax.slice_in_dim(x, 1, 4, stride=2, axis=2),
    "pad": lambda x, n: jnp.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=7.0),
    "concatenate": lambda x, n: jnp.concatenate([x, 2 * x[:, :1], x], axis=1),
    "transpose": lambda x, n: x.transpose(2, 0, 1),
    "merged_axes": lambda x, n: (x.reshape(-1, DIM) @ np.eye(DIM, 2)).reshape(
        *x.shape[:2], 2
    ),
    "broadcast": lambda x, n: jnp.broadcast_to(x[:, :1], x.shape).sum(1),
    "sort": lambda x, n: jnp.sort(x, axis=1),
    "split": lambda x, n: jnp.split(x, 2, axis=2)[1],
    "squeeze": lambda x, n: x[:, 0] + jnp.squeeze(x[:, 1:2], 1),
    "take": lambda x, n: jnp.take(x, np.array([2, 0]), axis=2),
    "look_up": lambda x, n: jnp.asarray(np.arange(12.0).reshape(6, 2))[n],
    "last_of_each": lambda x, n: jnp.take_along_axis(x, (n - 1)[:, None, None], axis=1),
    "attention": lambda x, n: jnp.einsum("bid,bjd->bij", x, x) @ x,
    "counted": lambda x, n: x.sum(1) / n[:, None] + n.astype(jnp.float32)[:, None],
    "half": lambda x, n: x.astype(jnp.float16).astype(jnp.float32),
    "nested": lambda x, n: jax.jit(lambda y: jax.nn.relu6(3 * y))(x),
}


def arguments(rng, batch=BATCH, length=LENGTH):
    x = rng.normal(size=(batch, length, DIM)).astype(np.float32)
    return x, rng.integers(1, length + 1, batch).astype(np.int32)


def specs():
    batch, length = jax.export.symbolic_shape("b, t", constraints=["t >= 2"])
    return {
        "x": jax.ShapeDtypeStruct((batch, length, DIM), np.float32),
        "n": jax.ShapeDtypeStruct((batch,), np.int32),
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operation_equals_jax(name):
    function = FUNCTIONS[name]
    model = translate(function, specs(), "y", {"about": "a test"})
    assert [(p.key, p.value) for p in model.metadata_props] == [("about", "a test")]
    session = onnx_session(model.SerializeToString())
    rng = np.random.default_rng(0)
    names = [item.name for item in session.get_inputs()]
    for sizes in ((3, 5), (1, 2), (4, 3)):
        values = arguments(rng, *sizes)
        given = dict(zip(("x", "n"), values, strict=True))
        (found,) = session.run(None, {key: given[key] for key in names})
        expected = np.asarray(function(*map(jnp.asarray, values)))
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": ((1, 2), (0, 1))},
        {"window_strides": (2, 1), "feature_group_count": 2},
        {"rhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))},
    ],
)
def test_convolution_and_max_pooling(options):
    options = {"window_strides": (1, 1), "padding": "VALID"} | options
    groups = options.get("feature_group_count", 1)
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 4 // groups, 6)).astype(np.float32)

    def function(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)
        padding = ((0, 0), (1, 0), (0, 1), (0, 0))
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), padding
        )

    (batch,) = jax.export.symbolic_shape("b")
    spec = {"x": jax.ShapeDtypeStruct((batch, 9, 8, 4), np.float32)}
    session = onnx_session(translate(function, spec, "y", {}).SerializeToString())
    x = rng.normal(size=(2, 9, 8, 4)).astype(np.float32)
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, function(x), rtol=1e-4, atol=1e-5)


def test_unused_weights_and_dead_operations_are_left_out():
    large = np.ones((100, 100), np.float32)

    def function(x, n):
        jnp.exp(x @ large[:DIM])
        return x + 1

    model = translate(function, specs(), "y", {})
    assert model.ByteSize() < 1000


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, n: jnp.cumsum(x, axis=1), "cumsum"),
        (lambda x, n: jnp.argsort(x, axis=1), "sorts only one array"),
        (lambda x, n: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0)]), "padding"),
    ],
)
def test_operation_without_a_rule_is_named(function, words):
    with pytest.raises(InputError, match=words) as info:
        translate(function, specs(), "y", {})
    assert "\n" not in str(info.value)
