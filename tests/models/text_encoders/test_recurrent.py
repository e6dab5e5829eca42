import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.text_encoders import RECURRENT

pytestmark = pytest.mark.usefixtures("quick_compilation")

COUNT = np.array([2, 6, 1, 4, 4], np.int32)  # not sorted
TOKENS = np.random.default_rng(0).integers(1, 12, (5, 6)).astype(np.int32)


@functools.cache
def encoder(kind):
    model = RECURRENT[kind](12, word_dim=3, embed_dim=4, dtype=jnp.float32)
    batch = {"tokens": TOKENS, "token_count": COUNT}
    return jax.jit(model.init)(jax.random.key(0), batch), jax.jit(model.apply)


def embed(kind, tokens=TOKENS, count=COUNT):
    variables, apply = encoder(kind)
    return np.asarray(apply(variables, {"tokens": tokens, "token_count": count}))


@pytest.mark.parametrize("kind", RECURRENT)
def test_embeddings_do_not_depend_on_the_order_of_captions(kind):
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(
        embed(kind, TOKENS[order], COUNT[order]), embed(kind)[order], atol=1e-6
    )


@pytest.mark.parametrize("kind", RECURRENT)
def test_padding_is_ignored(kind):
    exists = np.arange(TOKENS.shape[1]) < COUNT[:, None]
    padded = np.where(exists, TOKENS, 0)
    np.testing.assert_array_equal(embed(kind, padded), embed(kind))


@pytest.mark.parametrize("kind", RECURRENT)
def test_embedding_depends_on_each_token_and_its_position(kind):
    embedded = embed(kind)
    for caption, count in enumerate(COUNT):
        for place in range(count):
            tokens = TOKENS.copy()
            tokens[caption, place] = tokens[caption, place] % 11 + 1
            changed = (embed(kind, tokens) != embedded).any(1)
            np.testing.assert_array_equal(changed, np.arange(5) == caption)
    swapped = TOKENS.copy()
    swapped[1] = swapped[1, ::-1]
    assert (embed(kind, swapped)[1] != embedded[1]).any()


def test_gru_embeds_by_the_state_after_the_last_word():
    """Runs the recurrence in NumPy for one caption, without padding."""
    variables, _ = encoder("gru")
    params = jax.tree.map(np.asarray, variables["params"])
    gru = params["gru"]
    state = np.zeros(4)
    for token in TOKENS[3, : COUNT[3]]:
        word = params["words"]["embedding"][token]
        ir, iz, in_ = np.split(word @ gru["input_kernel"] + gru["input_bias"], 3)
        hr, hz, hn = np.split(
            state @ gru["recurrent_kernel"] + gru["recurrent_bias"], 3
        )
        r, z = 1 / (1 + np.exp(-ir - hr)), 1 / (1 + np.exp(-iz - hz))
        state = (1 - z) * np.tanh(in_ + r * hn) + z * state
    np.testing.assert_allclose(embed("gru")[3], state, atol=1e-6)
