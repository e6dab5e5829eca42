import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import parity
from tests.test_train_step import BATCH, VOCABULARY, make_batch
from vse_jax import parallel
from vse_jax.global_batch import global_costs, total_loss
from vse_jax.microbatches import loss_and_gradients
from vse_jax.models.vse import VSE
from vse_jax.train_step import create_train_state

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

SETTINGS = parity.loss_settings(epsilon=0.05)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def create(image_encoder):
    """Returns a model for mapped steps and its random variables."""
    model = VSE(image_encoder, "gru", VOCABULARY, word_dim=3, embed_dim=8, train=True)
    state = create_train_state(model, optax.identity(), make_batch(), seed=0)
    return model.clone(gather_over_devices=parallel.gather), state.variables


def embed(model, params, batch_stats, batch):
    variables = {"params": params, "batch_stats": batch_stats}
    embeddings, updated = model.apply(variables, batch, mutable=["batch_stats"])
    return embeddings, updated.get("batch_stats", {})


def loss(params, embeddings, batch, mining):
    directions = global_costs(*embeddings, batch["image_id"], SETTINGS, mining)
    return total_loss(directions, SETTINGS), directions


def on(devices, function, variables, batch):
    """Sums values and gradients of a per-device function over the devices."""

    def of_device(variables, batch):
        value, _, batch_stats, gradients = function(variables, batch)
        return parallel.sum_over_devices((value, gradients)), batch_stats

    mapped = jax.pmap(
        of_device,
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        devices=jax.devices()[:devices],
    )
    parts = {name: x.reshape(devices, -1, *x.shape[1:]) for name, x in batch.items()}
    found = jax.tree.map(lambda x: np.asarray(x[0]), mapped(variables, parts))
    (value, gradients), batch_stats = found
    return value, gradients, batch_stats


def in_parts(model, mining, microbatches):
    def function(variables, batch):
        return loss_and_gradients(
            functools.partial(embed, model),
            functools.partial(loss, mining=mining),
            variables["params"],
            variables["batch_stats"],
            batch,
            microbatches,
        )

    return function


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], **CLOSE)
    parity.assert_trees_close(found[1], expected[1], **CLOSE)
    parity.assert_trees_close(found[2], expected[2], **CLOSE)


def test_gradient_is_that_of_the_whole_batch():
    """VSE++ has no batch normalization."""
    model, variables = create("global")
    batch = make_batch()
    whole, two, sixteen = (
        on(devices, in_parts(model, "selective", microbatches), variables, batch)
        for devices, microbatches in ((8, 1), (8, 2), (1, 16))
    )
    assert whole[0] > 0.05
    norms = [np.abs(x).max() for x in jax.tree.leaves(whole[1])]
    assert min(norms) > 1e-4
    assert_same(two, whole)
    assert_same(sixteen, whole)


def naive(model, variables, batch):
    """Embeds four parts with their own statistics and differentiates all at once."""

    def of_params(params):
        batch_stats, embedded = variables["batch_stats"], {}
        for number in range(4):
            rows = range(number, BATCH, 4)
            part = {name: x[np.array(rows)] for name, x in batch.items()}
            (images, captions), batch_stats = embed(model, params, batch_stats, part)
            embedded |= dict(zip(rows, zip(images, captions, strict=True), strict=True))
        pairs = [embedded[row] for row in range(BATCH)]
        embeddings = tuple(map(jnp.stack, zip(*pairs, strict=True)))
        value, directions = loss(params, embeddings, batch, "mean")
        return value, (directions, batch_stats)

    gradient_of = jax.value_and_grad(of_params, has_aux=True)
    (value, (directions, batch_stats)), gradients = gradient_of(variables["params"])
    return value, directions, batch_stats, gradients


@pytest.mark.slow
def test_batch_normalization_takes_the_statistics_of_a_part():
    """The running statistics are updated by each part in order."""
    model, variables = create("region_residual")
    batch = make_batch()
    expected = on(1, functools.partial(naive, model), variables, batch)
    found = on(1, in_parts(model, "mean", 4), variables, batch)
    assert_same(found, expected)
    whole = on(1, in_parts(model, "mean", 1), variables, batch)
    kernel = [x[1]["image"]["encoder"]["projection"]["kernel"] for x in (found, whole)]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-4


def test_parts_have_the_same_pairs_on_any_number_of_devices():
    model, variables = create("region_residual")
    batch = make_batch()
    one, eight = (
        on(devices, in_parts(model, "mean", 2), variables, batch) for devices in (1, 8)
    )
    assert_same(eight, one)


def test_memory_of_the_encoders_is_that_of_a_part():
    """A layer of many hidden units needs more memory than everything else."""
    rows, hidden, parameters = 512, 1024, {"in": (4, 1024), "out": (1024, 4)}
    settings = parity.loss_settings()

    def embed(params, batch_stats, batch):
        hidden = jnp.tanh(jnp.tanh(batch["x"] @ params["in"]) * 2)
        return (hidden @ params["out"], batch["x"]), batch_stats

    def loss(params, embeddings, batch):
        directions = global_costs(*embeddings, batch["image_id"], settings, "mean")
        return total_loss(directions, settings), directions

    def memory(microbatches):
        def of_device(params, batch):
            found = loss_and_gradients(embed, loss, params, {}, batch, microbatches)
            return found.value, found.gradients

        mapped = jax.pmap(
            of_device,
            axis_name=parallel.AXIS,
            in_axes=(None, 0),
            devices=jax.devices()[:1],
        )
        params = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32)
            for name, shape in parameters.items()
        }
        batch = {
            "x": jax.ShapeDtypeStruct((1, rows, 4), jnp.float32),
            "image_id": jax.ShapeDtypeStruct((1, rows), jnp.int32),
        }
        compiled = mapped.lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # The similarities of 512 pairs need as much in both.
    saved = memory(1) - memory(8)
    assert saved > 7 / 8 * rows * hidden * 4
