"""Compares BERT with transformers and with golden data of VSE-infinity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity, pretrained_files, transformers_reference
from tests.models.backbones import hugging_face
from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.bert import Bert
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import (
    bert_files,
    pretrained_folder,
    text_weights,
    tokenizer_files,
)

COUNT = np.array([7, 3, 5, 1, 7], np.int32)
CAPTIONS = [
    "A brown dog with a red collar jumps over a fallen log.",
    "Two skateboarders wait at a crosswalk .",
    "A girl in a life-jacket paddles a kayak",
]
SIZES = TextSizes(2, 12, 3, 20, 16, 30, "gelu", 1e-12)


def tokens_of(sizes, count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, sizes.vocabulary_size, (len(count), count.max()))
    return np.where(exists(count), tokens, 0).astype(np.int32)


def exists(count):
    return np.arange(count.max()) < count[:, None]


def load(weights):
    found = pretrained_folder.read(str(weights))
    sizes = TextSizes(**bert_files.sizes(found.config))
    return sizes, text_weights.convert("bert", sizes, found.arrays, "the weights")


def ours(model, params, tokens, count, **options):
    """Returns the states that exist, and gradients as the reference defines them."""
    kept = exists(count)[..., None]
    weights = transformers_reference.weights_of(
        np.zeros((*tokens.shape, model.sizes.dim))
    )

    def loss(params):
        states = model.apply({"params": params}, tokens, count, **options)
        return (states * weights * kept).sum(), states * kept

    (_, states), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return states, gradients


def assert_equals_transformers(
    folder, weights, place, tokens, count, atol, model=None, factors=(), **options
):
    sizes, params = load(weights)
    mask = exists(count)
    theirs, their_gradients = transformers_reference.states_and_gradients(
        folder,
        "BertModel",
        place,
        input_ids=tokens.astype(np.int64),
        attention_mask=mask.astype(np.int64),
        **{f"dropout{i}": factor for i, factor in enumerate(factors)},
    )
    model = model or Bert(sizes)
    states, gradients = ours(model, params, tokens, count, **options)
    np.testing.assert_allclose(states, theirs * mask[..., None], atol=atol)
    expected = text_weights.convert("bert", sizes, their_gradients, "gradients")
    # Large gradients are compared relative to their largest entry.
    scale = jax.tree.map(lambda array: max(1, abs(array).max()), expected)
    parity.assert_trees_close(
        jax.tree.map(np.divide, gradients, scale),
        jax.tree.map(np.divide, expected, scale),
        atol=atol,
    )


def save_random(folder, activation):
    options = {
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
        "vocab_size": 30,
        "hidden_act": activation,
        "layer_norm_eps": 1e-7,
    }
    transformers_reference.save_random(folder, "BertModel", options)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_states_and_gradients_equal_those_of_transformers(tmp_path, activation):
    folder = tmp_path / "bert"
    save_random(folder, activation)
    tokens = tokens_of(load(folder)[0])
    assert_equals_transformers(folder, folder, tmp_path, tokens, COUNT, atol=1e-5)


def test_minilm_equals_transformers(tmp_path):
    package = pretrained_files.minilm()
    folder = pretrained_folder.find(package)
    encoded = [tokenizer_files.read(package).encode(text) for text in CAPTIONS]
    count = np.array(list(map(len, encoded)), np.int32)
    tokens = np.zeros((len(count), count.max()), np.int32)
    for row, numbers in zip(tokens, encoded, strict=True):
        row[: len(numbers)] = numbers
    assert_equals_transformers(folder, package, tmp_path, tokens, count, atol=1e-5)


def test_parity_of_states_with_vse_infinity():
    golden = parity.load("vse_infty_bert_eval")
    prefix = "param/txt.bert."
    arrays = {
        name.removeprefix(prefix): array
        for name, array in golden.items()
        if name.startswith(prefix)
    }
    sizes = TextSizes(
        **text_weights.stated_sizes("bert", parity.bert_config(golden), "")
    )
    params = text_weights.convert("bert", sizes, arrays, "the golden data")
    count = golden["in/caption_lengths"]
    tokens = golden["in/captions"].astype(np.int32)
    states = Bert(sizes).apply({"params": params}, tokens, count)
    mask = exists(count)
    np.testing.assert_allclose(
        np.asarray(states)[mask], golden["out/bert_hidden"][mask], atol=1e-5
    )


@pytest.fixture(scope="module")
def params():
    init = jax.jit(Bert(SIZES).init)
    return init(jax.random.key(1), tokens_of(SIZES), COUNT)["params"]


def test_padding_changes_nothing(params):
    tokens = tokens_of(SIZES)
    wide = np.pad(tokens, ((0, 0), (0, 4)), constant_values=9)
    wide = np.where(np.arange(wide.shape[1]) < COUNT[:, None], wide, 9)
    narrow, padded = (
        jax.jit(Bert(SIZES).apply)({"params": params}, t, COUNT) for t in (tokens, wide)
    )
    kept = exists(COUNT)
    np.testing.assert_allclose(
        np.asarray(padded)[:, : kept.shape[1]][kept],
        np.asarray(narrow)[kept],
        atol=1e-6,
    )


def test_bfloat16_is_close(params):
    tokens = tokens_of(SIZES)
    kept = exists(COUNT)
    precise, rough = (
        jax.jit(Bert(SIZES, dtype).apply)({"params": params}, tokens, COUNT)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.dtype == jnp.bfloat16
    difference = np.asarray(rough, np.float32)[kept] - np.asarray(precise)[kept]
    assert 0 < abs(difference).max() < 0.1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    import torch

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    theirs = hugging_face.transformers.activations.ACT2FN[name]
    np.testing.assert_allclose(
        ACTIVATIONS[name](x), theirs(torch.from_numpy(x)).numpy(), atol=1e-6
    )
