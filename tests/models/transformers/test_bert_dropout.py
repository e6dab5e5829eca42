"""BERT's dropout: where it is, against transformers, and what it depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.transformers import test_bert
from tests.models.transformers.test_bert import COUNT, SIZES, tokens_of
from vse_jax.models.transformers import bert
from vse_jax.models.transformers.bert import Bert
from vse_jax.models.transformers.token_dropout import LayerDropout, TokenDropout

pytestmark = pytest.mark.usefixtures("quick_compilation")

RATE = 0.3
KEY = jax.random.key(5)
IDS = np.array([12, 7, 40, 3, 8], np.int32)


def dropping(sizes=SIZES):
    return Bert(sizes, dropout=RATE)


def dropout_of(model, ids=IDS):
    """Returns the dropout that a model applies with the key."""
    key = model.bind({}, rngs={"dropout": KEY}).make_rng("dropout")
    return TokenDropout(RATE, key, ids)


def apply(params, tokens, count=COUNT, ids=IDS, key=KEY):
    model = dropping()
    states = model.apply({"params": params}, tokens, count, ids, rngs={"dropout": key})
    exists = jnp.arange(tokens.shape[1]) < count[:, None]
    return jnp.where(exists[..., None], states, 0)


compiled = jax.jit(apply)  # of the form for this platform


@pytest.fixture(scope="module")
def params():
    init = jax.jit(Bert(SIZES).init)
    return init(jax.random.key(1), tokens_of(SIZES), COUNT)["params"]


def test_states_and_gradients_equal_those_of_transformers(tmp_path):
    """With the same numbers dropped in the same places."""
    folder = tmp_path / "bert"
    test_bert.save_random(folder, "gelu")
    sizes, _ = test_bert.load(folder)
    tokens = tokens_of(sizes)
    model, (batch, time) = dropping(sizes), tokens.shape
    dropout = dropout_of(model)
    states = np.ones((batch, time, sizes.dim), np.float32)
    weights = np.ones((batch, sizes.heads, time, time), np.float32)
    factors = [dropout.of_states(0, states)]
    for layer in range(sizes.layers):
        drop = LayerDropout(dropout, layer)
        factors += [drop.weights(weights), drop.attended(states), drop.out(states)]
    test_bert.assert_equals_transformers(
        folder,
        folder,
        tmp_path,
        tokens,
        COUNT,
        atol=1e-5,
        model=model,
        factors=factors,
        caption_id=IDS,
        rngs={"dropout": KEY},
    )


def test_every_site_has_choices_of_its_own():
    dropout = TokenDropout(RATE, KEY, IDS)
    ones = np.ones((len(IDS), 7, 400), np.float32)
    lost = [np.asarray(dropout.of_states(site, ones)) == 0 for site in range(4)]
    np.testing.assert_allclose([x.mean() for x in lost], RATE, atol=0.02)
    pairs = [(a & b).mean() for i, a in enumerate(lost) for b in lost[:i]]
    np.testing.assert_allclose(pairs, RATE**2, atol=0.02)
    # Each caption and each token too.
    by_token = lost[0].reshape(-1, 400)
    assert len(np.unique(by_token, axis=0)) == len(by_token)


def test_order_of_captions_and_padding_change_nothing(params):
    tokens = tokens_of(SIZES)
    expected = compiled(params, tokens)
    rows = np.array([3, 0, 4])
    found = compiled(params, tokens[rows], COUNT[rows], IDS[rows])
    np.testing.assert_allclose(found, expected[rows], atol=1e-6)
    wide = np.pad(tokens, ((0, 0), (0, 6)))

    @jax.jit
    def on_wide(params):
        rngs = {"dropout": KEY}
        return dropping().apply({"params": params}, wide, COUNT, IDS, rngs=rngs)

    padded = on_wide(params)[:, : tokens.shape[1]]
    kept = test_bert.exists(COUNT)
    np.testing.assert_allclose(np.asarray(padded)[kept], expected[kept], atol=1e-6)


def test_key_and_caption_decide(params):
    tokens = tokens_of(SIZES)
    first = compiled(params, tokens)
    np.testing.assert_array_equal(compiled(params, tokens), first)
    for other in (
        compiled(params, tokens, key=jax.random.key(6)),
        compiled(params, tokens, ids=IDS + 1),
    ):
        assert (np.abs(other - first).max((1, 2)) > 1e-2).all()


def test_evaluation_drops_nothing(params):
    tokens = tokens_of(SIZES)
    np.testing.assert_array_equal(
        dropping().apply({"params": params}, tokens, COUNT),
        Bert(SIZES).apply({"params": params}, tokens, COUNT),
    )


@pytest.mark.parametrize("form", ["on_cpu", "otherwise"])
def test_forms_of_platforms_equal_the_modules(params, monkeypatch, form):
    tokens = tokens_of(SIZES)
    direction = np.random.default_rng(0).normal(size=(*tokens.shape, SIZES.dim))

    def gradient_and_states():
        def total(params):
            states = apply(params, tokens)
            return (states * direction).sum(), states

        return jax.jit(jax.grad(total, has_aux=True))(params)

    expected_gradient, expected = gradient_and_states()
    used = []

    def choose(on_cpu, otherwise, *args, plain):
        used.append({"on_cpu": on_cpu, "otherwise": otherwise}[form])
        return used[-1](*args)

    monkeypatch.setattr(bert, "SMALLEST_DIM", 1)
    monkeypatch.setattr(bert, "per_platform", choose)
    gradient, states = gradient_and_states()
    np.testing.assert_allclose(states, expected, atol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5),
        gradient,
        expected_gradient,
    )
    assert used


def test_bfloat16_keeps_its_dtype(params):
    model = Bert(SIZES, jnp.bfloat16, dropout=RATE)
    states = model.apply(
        {"params": params}, tokens_of(SIZES), COUNT, IDS, rngs={"dropout": KEY}
    )
    assert states.dtype == jnp.bfloat16
