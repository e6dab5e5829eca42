import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity
from vse_jax import parallel
from vse_jax.global_batch import BLOCK_BYTES, anchor_metrics, global_costs
from vse_jax.losses import MININGS, AnchorCosts
from vse_jax.similarity import SIMILARITIES

ROWS, DIM = 48, 8  # 6 pairs on each of 8 devices


@pytest.mark.parametrize("mining", MININGS)
def test_pairs_of_one_image_on_two_devices_are_no_negatives(mining):
    """All pairs except two are far apart; those two share an image and are equal."""
    embeddings = np.eye(8, dtype=np.float32)
    embeddings[6] = embeddings[1]
    image_id = np.arange(8, dtype=np.int32)
    settings = parity.loss_settings()

    def of_device(embeddings, image_id):
        costs = global_costs(embeddings, embeddings, image_id, settings, mining)
        return sum(direction.cost.sum() for direction in costs)

    mapped = jax.pmap(of_device, axis_name=parallel.AXIS)
    counted = np.asarray(mapped(embeddings[:, None], image_id[:, None]))
    image_id[6] = image_id[1]
    masked = np.asarray(mapped(embeddings[:, None], image_id[:, None]))
    np.testing.assert_array_equal(masked, 0)
    # As negatives they would cost the margin, except with `semi_hard`, which excludes
    # negatives that are exactly as similar as the positive.
    expected = np.isin(np.arange(8), [1, 6]) & (mining != "semi_hard")
    np.testing.assert_array_equal(counted > 0, expected)


def test_metrics_are_means_over_anchors_that_have_negatives():
    costs = AnchorCosts(
        cost=jnp.array([9.0, 9.0, 9.0]),
        is_hard=jnp.array([True, True, False]),
        gap=jnp.array([jnp.inf, 0.2, 0.4]),
        positive=jnp.array([0.9, 0.5, 0.1]),
        hardest=jnp.array([-jnp.inf, 0.3, 0.5]),
    )
    one_device = jax.vmap(lambda x: anchor_metrics((x, x)), axis_name=parallel.AXIS)
    metrics = jax.tree.map(
        lambda x: x[0], one_device(jax.tree.map(lambda x: x[None], costs))
    )
    expected = {
        "hard_share": 0.5,
        "gap": 0.3,
        "positive_similarity": 0.3,
        "hardest_similarity": 0.4,
    }
    assert metrics == pytest.approx(expected)


@pytest.fixture(scope="module")
def pairs():
    """Embeddings of similar pairs, and images that occur twice on other devices."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    captions = images + rng.normal(size=(ROWS, DIM)).astype(np.float32)
    image_id = np.arange(ROWS, dtype=np.int32)
    image_id[[13, 40]] = image_id[[2, 41]]
    return (
        *(x / np.linalg.norm(x, axis=1)[:, None] for x in (images, captions)),
        image_id,
    )


def costs_and_gradients(pairs, similarity, mining, block_bytes):
    settings = parity.loss_settings(similarity=similarity, epsilon=0.05)

    def of_device(images, captions, image_id):
        def loss(images, captions):
            costs = global_costs(
                images, captions, image_id, settings, mining, block_bytes=block_bytes
            )
            return sum(direction.cost.sum() for direction in costs), costs

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(images, captions)

    mapped = jax.pmap(of_device, axis_name=parallel.AXIS)
    gradients, costs = mapped(*(x.reshape(8, -1, *x.shape[1:]) for x in pairs))
    return jax.tree.map(np.asarray, (costs, gradients))


@pytest.mark.parametrize(
    ("similarity", "mining"),
    [*(("cosine", mining) for mining in MININGS), ("order", "all")],
)
def test_blocks_give_the_costs_and_gradients_of_the_whole(pairs, similarity, mining):
    """The blocks have 4 anchors, so that the last one is padded, or a single one."""
    bytes_of_anchor = ROWS * 4 * (DIM if similarity == "order" else 1)
    whole, gradients = costs_and_gradients(pairs, similarity, mining, BLOCK_BYTES)
    assert whole[0].cost.sum() > 0
    for anchors in (4, 0.5):
        block_bytes = int(anchors * bytes_of_anchor)
        found = costs_and_gradients(pairs, similarity, mining, block_bytes)
        for direction, expected in zip(found[0], whole, strict=True):
            np.testing.assert_array_equal(direction.is_hard, expected.is_hard)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6),
                direction,
                expected,
            )
        for gradient, expected in zip(found[1], gradients, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_memory_of_a_large_batch_grows_with_it_and_not_with_its_square(similarity):
    """Compiles the gradient for one device and twice as many pairs."""
    dim, rows = 64, (256, 512)
    settings = parity.loss_settings(similarity=similarity)

    def loss(images, captions, image_id, block_bytes):
        costs = global_costs(
            images, captions, image_id, settings, "all", block_bytes=block_bytes
        )
        return sum(direction.cost.sum() for direction in costs)

    def memory(rows, block_bytes):
        def of_device(*pairs):
            return jax.grad(loss, argnums=(0, 1))(*pairs, block_bytes)

        embeddings = jax.ShapeDtypeStruct((1, rows, dim), jnp.float32)
        image_id = jax.ShapeDtypeStruct((1, rows), jnp.int32)
        mapped = jax.pmap(of_device, axis_name=parallel.AXIS, devices=jax.devices()[:1])
        compiled = mapped.lower(embeddings, embeddings, image_id).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    blocks = [memory(n, 2**16) for n in rows]
    whole = [memory(n, 2**40) for n in rows]
    assert blocks[1] < 2.5 * blocks[0]
    assert whole[1] > 3 * whole[0]
    assert blocks[1] < whole[1] / 2
