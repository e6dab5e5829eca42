"""The packed form of BERT's layers equals the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.kernels import packed_bert
from vse_jax.models.kernels.packed_bert import Packing, packed_layers
from vse_jax.models.transformers.bert import Bert, Layer
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.models.transformers.token_dropout import TokenDropout

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = TextSizes(2, 8, 2, 12, 10, 20, "gelu", 1e-6)
COUNTS = {
    "ragged": [9, 1, 4, 2, 2],
    "all_long": [9] * 5,
    "all_short": [1] * 5,
    "one_caption": [3],
}
TIME = 9


def plain_form(params, states, count, dropout):
    layer, exists = Layer(SIZES, jnp.float32), jnp.arange(TIME) < count[:, None]
    for i, of_layer in enumerate(params):
        states = layer.apply({"params": of_layer}, states, exists, dropout, i)
    return states


def packed_form(params, states, count, dropout):
    return packed_layers(SIZES, jnp.float32, params, states, count, dropout)


@functools.cache
def compiled(form, drops):
    """Returns a function of the states and of the gradients of their weighted sum."""

    def weighted(params, states, count, weights):
        dropout = None
        if drops:
            images = 10 + np.arange(len(states))
            dropout = TokenDropout(0.3, jax.random.key(2), images)
        states = form(params, states, count, dropout)
        return (states * weights).sum(), states

    return jax.jit(jax.grad(weighted, (0, 1), has_aux=True))


@pytest.fixture(scope="module")
def params():
    tokens, count = np.ones((1, 2), np.int32), np.ones(1, np.int32)
    variables = jax.jit(Bert(SIZES).init)(jax.random.key(0), tokens, count)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        [variables["params"][f"layer_{i}"] for i in range(SIZES.layers)],
    )


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_packing_is_a_permutation_with_captions_first(counts):
    count = np.array(counts, np.int32)
    packing = Packing.create(count, TIME)
    states = np.arange(len(count) * TIME, dtype=np.float32).reshape(-1, TIME, 1)
    rows = packing.pack(states)
    exists = np.arange(TIME) < count[:, None]
    assert packing.total == count.sum()
    np.testing.assert_array_equal(rows[: count.sum(), 0], states[exists][:, 0])
    np.testing.assert_array_equal(packing.unpack(rows, len(count)), states)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_values_and_gradients_equal_the_plain_form(params, counts, drops):
    count = np.array(counts, np.int32)
    rng = np.random.default_rng(1)
    states = rng.normal(size=(len(count), TIME, SIZES.dim)).astype(np.float32)
    exists = np.arange(TIME) < count[:, None]
    weights = rng.normal(size=states.shape) * exists[..., None]
    found = []
    for form in (packed_form, plain_form):
        gradients, outputs = compiled(form, drops)(params, states, count, weights)
        found.append((outputs[exists], gradients))
    jax.tree.map(
        # Gradients are up to 30.
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5, rtol=1e-5),
        *found,
    )


def test_model_uses_it_for_large_states_on_cpus_alone(monkeypatch):
    tokens, count = np.ones((2, TIME), np.int32), np.array([9, 3], np.int32)
    variables = jax.jit(Bert(SIZES).init)(jax.random.key(0), tokens, count)
    plain = Bert(SIZES).apply(variables, tokens, count)
    used = []
    monkeypatch.setattr("vse_jax.models.transformers.bert.SMALLEST_DIM", 8)
    monkeypatch.setattr(
        "vse_jax.models.transformers.bert.packed_layers",
        lambda *args, **options: (
            used.append(args) or packed_bert.packed_layers(*args, **options)
        ),
    )
    packed = jax.jit(lambda *a: Bert(SIZES).apply(*a))(variables, tokens, count)
    assert used
    exists = np.arange(TIME) < count[:, None]
    np.testing.assert_allclose(packed[exists], plain[exists], atol=1e-5)
