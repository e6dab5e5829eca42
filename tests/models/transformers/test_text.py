"""CLIP's and SigLIP's text towers against those of transformers, in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from tests.models.backbones import hugging_face
from vse_jax.models.text_encoders import TOWERS
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import clip_files, pretrained_folder, text_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

transformers = hugging_face.transformers
END, WORDS, POSITIONS, PADDING = 39, 38, 12, 1
COUNT = np.array([7, 3, 9, 2], np.int32)
OPTIONS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 3,
    "pad_token_id": PADDING,
}
KINDS = {
    "clip": ("clip_text", "CLIPText", {"eos_token_id": END}, clip_files.CLIP),
    # The first files of CLIP name another end.
    "clip_legacy": ("clip_text", "CLIPText", {"eos_token_id": 2}, clip_files.CLIP),
    "siglip": ("siglip_text", "SiglipText", {"eos_token_id": 1}, clip_files.SIGLIP),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def saved(kind, tmp_path_factory):
    """A model, its sizes and its parameters by our names."""
    name, cls, options, files = KINDS[kind]
    config = getattr(transformers, f"{cls}Config")(**OPTIONS, **options)
    model = getattr(transformers, f"{cls}Model")(config)
    model = hugging_face.randomize(model).eval()
    folder = tmp_path_factory.mktemp(kind)
    model.save_pretrained(folder)
    found = pretrained_folder.read(str(folder))
    sizes = TextSizes(**files.sizes(found.config))
    return model, sizes, text_weights.convert(name, sizes, found.arrays, str(folder))


def draw_tokens():
    """Captions whose last token is the end, padded with 0 to the longest.

    One of them has the end within it too, which stands for unknown characters.
    """
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, WORDS, (len(COUNT), COUNT.max())).astype(np.int32)
    tokens = np.where(np.arange(COUNT.max()) < COUNT[:, None], tokens, 0)
    tokens[np.arange(len(COUNT)), COUNT - 1] = tokens[2, 4] = END
    return tokens


def run(kind, model, tokens):
    """Returns states and the pooled output of transformers."""
    if kind == "siglip":  # which expects padding to all positions
        tokens = np.pad(tokens, ((0, 0), (0, POSITIONS - tokens.shape[1])))
        exists = np.arange(POSITIONS) < COUNT[:, None]
        tokens = np.where(exists, tokens, PADDING)
    output = model(torch.tensor(tokens, dtype=torch.long))
    return output.last_hidden_state, output.pooler_output


def apply(kind, sizes, params, tokens, dtype=jnp.float32):
    tower = TOWERS[KINDS[kind][0]](sizes, dtype)
    states = tower.apply({"params": params}, tokens, COUNT)
    return states, tower.summary(states, tokens, COUNT)


def test_states_and_summary_equal_transformers(kind, saved):
    model, sizes, params = saved
    tokens = draw_tokens()
    with torch.no_grad():
        expected, pooled = run(kind, model, tokens)
        if kind == "siglip":
            pooled = expected[:, -1]  # before the head
    states, summary = jax.jit(lambda p: apply(kind, sizes, p, tokens))(params)
    exists = np.arange(COUNT.max()) < COUNT[:, None]
    np.testing.assert_allclose(
        np.asarray(states)[:, : COUNT.max()][exists],
        expected.numpy()[:, : COUNT.max()][exists],
        atol=1e-5,
    )
    np.testing.assert_allclose(summary, pooled, atol=1e-5)


def test_padding_of_a_batch_does_not_matter(kind, saved):
    """A caption has one embedding, in whichever batch it is."""
    _, sizes, params = saved
    tokens = draw_tokens()
    longer = np.pad(tokens, ((0, 0), (0, POSITIONS - tokens.shape[1])))
    _, expected = apply(kind, sizes, params, tokens)
    _, summary = apply(kind, sizes, params, longer)
    np.testing.assert_allclose(summary, expected, atol=1e-5)


def test_gradients_equal_pytorch(kind, saved, tmp_path):
    model, sizes, params = saved
    tokens = draw_tokens()
    states, pooled = run(kind, model, tokens)
    if kind == "siglip":
        pooled = states[:, -1]
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (pooled * weights).sum().backward()
    arrays = {
        name: np.zeros(parameter.shape, np.float32)
        if parameter.grad is None
        else parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }
    expected = text_weights.convert(KINDS[kind][0], sizes, arrays, "gradients")

    def loss(params):
        return (apply(kind, sizes, params, tokens)[1] * weights.numpy()).sum()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(params))
    for path, leaf in traverse_util.flatten_dict(expected).items():
        scale = np.abs(leaf).max()
        assert scale > 1e-3 or path[-2:] == ("key", "bias")
        np.testing.assert_allclose(
            gradients[path], leaf, atol=1e-5 * scale + 1e-5, err_msg=str(path)
        )


def test_defaults_are_those_of_transformers(kind):
    _, cls, _, files = KINDS[kind]
    complete = getattr(transformers, f"{cls}Config")()
    for name, value in files.defaults.items():
        assert getattr(complete, name) == value
