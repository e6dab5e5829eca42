import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity
from vse_jax.models.vse import create_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Mining by the reduction in the name of a published loss.
SUM_AND_MAX = {"sum": "all", "max": "hardest"}
# Encoders and options of the model by golden file.
PUBLISHED = {
    "rvsepp_eval": ("region_residual", "bigru_gpo", {}),
    "vse_infty_bigru_eval": ("region_parallel", "bigru_gpo", {}),
    "vsepp_eval": ("global", "gru", {}),
    "vse0_eval": ("global", "gru", {"normalize_image": False}),
    "order_eval": ("global", "gru", {"absolute": True}),
}


def meaning_of_loss(golden, name):
    """Returns mining and settings of a published loss, such as `loss_order_max`."""
    margin = float(golden["cfg/margin"])
    if name == "loss_selhn":
        epsilon = float(golden["cfg/epsilon"])
        return "selective", parity.loss_settings(margin=margin, epsilon=epsilon)
    *similarity, kind = name.removeprefix("loss_").split("_")
    similarity = similarity[0] if similarity else "cosine"
    settings = parity.loss_settings(
        margin=margin, similarity=similarity, reduction="sum"
    )
    return SUM_AND_MAX[kind], settings


@pytest.mark.parametrize("name", PUBLISHED)
def test_parity_of_embeddings_and_losses(name):
    golden = parity.load(name)
    image_encoder, text_encoder, options = PUBLISHED[name]
    model = parity.model(golden, image_encoder, text_encoder, **options)
    variables = parity.variables(golden, "param")
    images, captions = jax.jit(model.apply)(variables, parity.batch(golden))
    np.testing.assert_allclose(images, golden["out/image_emb"], atol=1e-5)
    np.testing.assert_allclose(captions, golden["out/caption_emb"], atol=1e-5)

    losses = [key for key in golden if key.startswith("out/loss_")]
    assert losses
    for key in losses:
        mining, settings = meaning_of_loss(golden, key.removeprefix("out/"))
        loss = parity.batch_loss(images, captions, settings, mining)
        np.testing.assert_allclose(loss, golden[key], rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return {
        "feature": rng.normal(size=(4, 6)).astype(np.float32),
        "tokens": rng.integers(1, 9, (4, 5)).astype(np.int32),
        "token_count": np.array([2, 5, 3, 3], np.int32),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_configuration_describes_the_model(config, pairs, dtype):
    config.dtype = dtype
    config.model.update(
        image_encoder="global", text_encoder="gru", embed_dim=8, word_dim=4
    )
    model = create_model(config, vocabulary_size=9, train=False)
    variables = jax.jit(model.init)(jax.random.key(0), pairs)
    params = variables["params"]
    assert params["text"]["words"]["embedding"].shape == (9, 4)
    assert params["image"]["encoder"]["projection"]["kernel"].shape == (6, 8)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    for embedded in jax.jit(model.apply)(variables, pairs):
        assert embedded.shape == (4, 8)
        assert embedded.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_of_regions_is_an_option(config, pooling):
    """Compares with NumPy's pooling of regions that are embedded one by one."""
    config.model.update(text_encoder="gru", embed_dim=8, word_dim=4, pooling=pooling)
    model = create_model(config, vocabulary_size=9, train=False)
    rng = np.random.default_rng(0)
    batch = {
        "regions": rng.normal(size=(2, 3, 6)).astype(np.float32),
        "region_count": np.array([3, 2], np.int32),
        "tokens": np.ones((2, 5), np.int32),
        "token_count": np.array([5, 2], np.int32),
    }
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    encoder = variables["params"]["image"]["encoder"]
    assert "pooling" not in encoder
    one_by_one = [
        model.apply(
            variables,
            batch | {"regions": batch["regions"][:, i : i + 1], "region_count": ones},
            method=lambda model, batch: model.image(batch),
        )
        for i, ones in enumerate([np.ones(2, np.int32)] * 3)
    ]
    pool = {"mean": np.mean, "max": np.max}[pooling]
    for row, count in enumerate(batch["region_count"]):
        expected = pool([vectors[row] for vectors in one_by_one[:count]], axis=0)
        expected /= np.linalg.norm(expected)
        ours = model.apply(variables, batch, method=model.embed_images)[row]
        np.testing.assert_allclose(ours, expected, atol=1e-5)
