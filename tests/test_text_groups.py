"""Parameter groups of a text transformer: frozen, slower, without weight decay."""

import jax
import numpy as np
import optax
import pytest

from configs import common
from vse_jax import parameter_groups
from vse_jax.models.vse import create_model
from vse_jax.optimizer import create_optimizer

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = {
    "layers": 2,
    "dim": 8,
    "heads": 2,
    "mlp_dim": 12,
    "positions": 8,
    "activation": "gelu",
    "epsilon": 1e-6,
}


@pytest.fixture(scope="module")
def model_and_batch():
    config = common.get_config()
    config.model.update(text_encoder="bert", embed_dim=4, image_encoder="region_linear")
    config.model.text_tower.update(SIZES)
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(1, 20, (3, 5)).astype(np.int32),
        "token_count": np.array([5, 3, 1], np.int32),
        "regions": rng.normal(size=(3, 2, 6)).astype(np.float32),
        "region_count": np.full(3, 2, np.int32),
    }
    model = create_model(config, 20, train=True)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    return model, params, batch


def gradients_of(model, params, batch, groups):
    def loss(params):
        params = parameter_groups.stop_frozen(groups, params)
        images, captions = model.apply({"params": params}, batch)
        return (images * captions).sum()

    return loss, jax.jit(jax.grad(loss))(params)


def updates_of(gradients, params, groups):
    settings = common.get_config().optimizer
    optimizer = create_optimizer(settings, optax.constant_schedule(1e-2), groups)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


def test_gradient_of_a_frozen_transformer_is_not_computed(model_and_batch):
    groups = (common.parameter_group("text/transformer/.*", frozen=True),)
    loss, gradients = gradients_of(*model_and_batch, groups)
    text = gradients["text"]
    assert all(not leaf.any() for leaf in jax.tree.leaves(text["transformer"]))
    assert text["projection"]["kernel"].any()
    _, params, _ = model_and_batch
    whole = jax.make_jaxpr(jax.grad(gradients_of(*model_and_batch, ())[0]))(params)
    frozen = jax.make_jaxpr(jax.grad(loss))(params)
    products = [str(jaxpr).count("dot_general") for jaxpr in (frozen, whole)]
    # Forward and head alone: far fewer products than with the transformer's gradient.
    assert products[0] < 0.7 * products[1]


def test_slower_and_without_weight_decay_by_pattern(model_and_batch):
    groups = (
        common.parameter_group(
            "text/transformer/.*/(bias|scale)", learning_rate=0.1, weight_decay=0.0
        ),
        common.parameter_group("text/transformer/.*", learning_rate=0.1),
    )
    _, params, _ = model_and_batch
    _, gradients = gradients_of(*model_and_batch, ())
    slow, fast = (
        updates_of(gradients, params, groups),
        updates_of(gradients, params, ()),
    )
    layer = slow["text"]["transformer"]["layer_0"]
    full = fast["text"]["transformer"]["layer_0"]
    np.testing.assert_allclose(
        layer["hidden"]["kernel"], 0.1 * full["hidden"]["kernel"], atol=1e-7
    )
    decay = common.get_config().optimizer.weight_decay
    scale = params["text"]["transformer"]["layer_0"]["norm"]["scale"]
    np.testing.assert_allclose(
        layer["norm"]["scale"],
        0.1 * (full["norm"]["scale"] + 1e-2 * decay * scale),
        atol=1e-7,
    )
