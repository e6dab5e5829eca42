"""InfoNCE and the sigmoid loss, of similarities and of whole batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity
from vse_jax import parallel
from vse_jax.global_batch import global_costs, total_loss
from vse_jax.loss_scalars import Scalars
from vse_jax.losses import infonce_costs, sigmoid_costs

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCALE, BIAS = 7.0, -2.5
ROWS, DIM = 24, 6  # three pairs on each of eight devices


@pytest.fixture(scope="module")
def problem():
    """Anchors of one of several devices; one has no negatives, some have duplicates."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(-0.5, 0.9, (6, 10)).astype(np.float32)
    own = np.arange(6) + 2
    image = np.array([0, 1, 2, 3, 4, 5, 6, 7, 3, 5])
    is_negative = image[own][:, None] != image
    is_negative[4] = False
    assert (~is_negative).sum() > len(own) + 10 - 1
    return scores, own, is_negative


def naive_infonce(scores, own, is_negative, scale):
    costs = []
    for i, row in enumerate(scores.astype(np.float64)):
        terms = [
            np.exp(scale * score)
            for j, score in enumerate(row)
            if is_negative[i, j] or j == own[i]
        ]
        costs.append(-np.log(np.exp(scale * row[own[i]]) / sum(terms)))
    return np.array(costs)


def naive_sigmoid(scores, own, is_negative, scale, bias):
    costs = np.zeros(scores.shape)
    for (i, j), score in np.ndenumerate(scores.astype(np.float64)):
        if j == own[i] or is_negative[i, j]:
            z = 1 if j == own[i] else -1
            costs[i, j] = -np.log(1 / (1 + np.exp(-z * (scale * score + bias))))
    return costs


def ours_infonce(scores, own, is_negative, scale):
    return infonce_costs(jnp.asarray(scores), jnp.asarray(own), is_negative, scale).cost


def ours_sigmoid(scores, own, is_negative, scale, bias):
    is_own = np.arange(scores.shape[1]) == own[:, None]
    return sigmoid_costs(scores, is_own, is_negative, scale, bias)


LOSSES = {
    "infonce": (ours_infonce, naive_infonce, (SCALE,)),
    "sigmoid": (ours_sigmoid, naive_sigmoid, (SCALE, BIAS)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_costs_are_those_of_a_double_loop(problem, name):
    ours, naive, scalars = LOSSES[name]
    found = ours(*problem, *scalars)
    np.testing.assert_allclose(found, naive(*problem, *scalars), atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(problem, name):
    """With respect to each similarity, the scale and the bias."""
    ours, naive, scalars = LOSSES[name]
    scores, own, is_negative = problem
    scores, step = scores.astype(np.float64), 1e-5

    def change(scores_step, scalar_steps):
        at = [
            naive(
                scores + sign * scores_step,
                own,
                is_negative,
                *(x + sign * y for x, y in zip(scalars, scalar_steps, strict=True)),
            ).sum()
            for sign in (1, -1)
        ]
        return (at[0] - at[1]) / (2 * step)

    still = np.zeros(len(scalars))
    expected = np.zeros(scores.shape)
    for place in np.ndindex(scores.shape):
        shift = np.zeros(scores.shape)
        shift[place] = step
        expected[place] = change(shift, still)
    of_scalars = [change(0, row) for row in step * np.eye(len(scalars))]
    found = jax.grad(
        lambda scores, *scalars: ours(scores, own, is_negative, *scalars).sum(),
        argnums=range(1 + len(scalars)),
    )(jnp.float32(scores), *scalars)
    np.testing.assert_allclose(found[0], expected, atol=2e-5)
    np.testing.assert_allclose(found[1:], of_scalars, rtol=1e-5)
    duplicates = ~is_negative
    duplicates[np.arange(len(own)), own] = False
    assert not np.asarray(found[0])[duplicates].any()


def test_infonce_of_an_anchor_without_negatives_is_zero(problem):
    scores, own, is_negative = problem
    costs = ours_infonce(*problem, SCALE)
    assert costs[4] == 0
    assert (np.delete(costs, 4) > 0.01).all()
    gradient = jax.grad(lambda x: ours_infonce(x, own, is_negative, SCALE)[4])(
        jnp.asarray(scores)
    )
    np.testing.assert_array_equal(gradient, 0)


def test_small_infonce_is_exact_at_a_large_scale():
    """Logits of 100 have an error of 4e-6, and this cost is 5e-5."""
    scores = jnp.array([[1.0, 0.9, 0.8]])
    is_negative = jnp.array([[False, True, True]])
    found = infonce_costs(scores, jnp.array([0]), is_negative, 100.0).cost
    np.testing.assert_allclose(found, np.exp(-10.0) + np.exp(-20.0), rtol=3e-3)


def make_pairs():
    """Embeddings of similar pairs; two pairs of images are the same."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(ROWS, DIM))
    captions = images + rng.normal(size=(ROWS, DIM))
    image_id = np.arange(ROWS, dtype=np.int32)
    image_id[[13, 20]] = image_id[[2, 19]]
    unit = [x / np.linalg.norm(x, axis=1)[:, None] for x in (images, captions)]
    return *(x.astype(np.float32) for x in unit), image_id


PAIRS = make_pairs()


def settings_of(name, **options):
    return parity.loss_settings(
        **{"name": name, "triplet_weight": 0.0, "epsilon": 0.05} | options
    )


@functools.cache
def on_devices(devices, name, weight=0.0, block_bytes=2**27):
    """Returns the loss of the global batch, its gradients and the anchors' costs."""
    settings = settings_of(name, triplet_weight=weight)

    def of_device(images, captions, image_id, scalars):
        def loss(images, captions, scalars):
            costs = global_costs(
                images,
                captions,
                image_id,
                settings,
                "selective",
                Scalars(*scalars),
                block_bytes=block_bytes,
            )
            return total_loss(costs, settings), costs

        (value, costs), gradients = jax.value_and_grad(
            loss, argnums=(0, 1, 2), has_aux=True
        )(images, captions, scalars)
        sums = parallel.sum_over_devices((value, gradients[2]))
        return sums, gradients[:2], costs

    mapped = jax.pmap(
        of_device,
        axis_name=parallel.AXIS,
        in_axes=(0, 0, 0, None),
        devices=jax.devices()[:devices],
    )
    parts = (x.reshape(devices, -1, *x.shape[1:]) for x in PAIRS)
    scalars = jnp.float32([SCALE, BIAS])
    (value, of_scalars), gradients, costs = mapped(*parts, scalars)
    whole = [np.asarray(x).reshape(ROWS, DIM) for x in gradients]
    costs = jax.tree.map(lambda x: np.asarray(x).reshape(-1), costs)
    return value[0], whole, np.asarray(of_scalars[0]), costs


def torch_loss(name):
    """The published loss of a whole batch by PyTorch's autograd, in float64."""
    torch = pytest.importorskip("torch")
    images, captions = (torch.tensor(x, dtype=torch.float64) for x in PAIRS[:2])
    scalars = torch.tensor([SCALE, BIAS], dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (images, captions, scalars)]
    image_id = torch.tensor(PAIRS[2])
    is_own = torch.eye(ROWS, dtype=torch.bool)
    excluded = (image_id[:, None] == image_id) & ~is_own
    logits = scalars[0] * images @ captions.T
    if name == "infonce":
        logits = logits.masked_fill(excluded, -torch.inf)
        target = torch.arange(ROWS)
        loss = sum(
            torch.nn.functional.cross_entropy(x, target) / 2 for x in (logits, logits.T)
        )
    else:
        sign = 2 * is_own.double() - 1
        terms = -torch.nn.functional.logsigmoid(sign * (logits + scalars[1]))
        loss = terms.masked_fill(excluded, 0).sum() / ROWS
    loss.backward()
    return loss.item(), [x.grad.numpy() for x in inputs]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_batch_is_the_published_one(name, devices):
    """CLIP's and SigLIP's, with the pairs of the same image left out."""
    value, gradients, of_scalars, _ = on_devices(devices, name, 0.0)
    expected, (*embeddings, scalars) = torch_loss(name)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, gradient in zip(gradients, embeddings, strict=True):
        np.testing.assert_allclose(found, gradient, atol=1e-6)
    np.testing.assert_allclose(of_scalars, scalars, rtol=1e-5, atol=1e-6)
    assert np.abs(scalars).max() > 1e-3


@pytest.mark.parametrize(("name", "weight"), [("infonce", 3.0), ("sigmoid", 0.0)])
def test_blocks_give_the_loss_and_gradients_of_the_whole(name, weight):
    """The blocks have 5 or 2 anchors, so that the last one is padded."""
    whole = on_devices(8, name, weight)
    for devices, rows in ((1, 5), (8, 2)):
        candidates = ROWS // devices if name == "sigmoid" else ROWS
        found = on_devices(devices, name, weight, block_bytes=4 * candidates * rows)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
            found,
            whole,
        )


@pytest.mark.parametrize("name", LOSSES)
def test_compares_positive_and_hardest_like_the_triplet_loss(name):
    *_, costs = on_devices(8, name, 0.0)
    *_, expected = on_devices(8, "triplet", 0.0)
    for ours, triplet in zip(costs, expected, strict=True):
        assert ours.is_hard is None
        for field in ("positive", "hardest", "gap"):
            np.testing.assert_allclose(
                getattr(ours, field), getattr(triplet, field), atol=1e-6
            )


def test_triplet_loss_is_added_with_its_weight():
    plain, triplet, both = (
        on_devices(8, name, weight)
        for name, weight in (("infonce", 0.0), ("triplet", 0.0), ("infonce", 3.0))
    )
    np.testing.assert_allclose(both[0], plain[0] + 3 * triplet[0], rtol=1e-6)
    for found, first, second in zip(both[1], plain[1], triplet[1], strict=True):
        np.testing.assert_allclose(found, first + 3 * second, atol=1e-6)
    assert both[3][0].is_hard.tolist() == triplet[3][0].is_hard.tolist()


def compiled_sigmoid(devices, rows, block_bytes):
    settings = settings_of("sigmoid")

    def loss(images, captions, image_id):
        costs = global_costs(
            images,
            captions,
            image_id,
            settings,
            "all",
            Scalars(SCALE, BIAS),
            block_bytes=block_bytes,
        )
        return total_loss(costs, settings)

    mapped = jax.pmap(
        jax.grad(loss, argnums=(0, 1)),
        axis_name=parallel.AXIS,
        devices=jax.devices()[:devices],
    )
    shape = (devices, rows // devices)
    embeddings = jax.ShapeDtypeStruct((*shape, DIM), jnp.float32)
    image_id = jax.ShapeDtypeStruct(shape, jnp.int32)
    return mapped.lower(embeddings, embeddings, image_id).compile()


def test_no_device_has_all_similarities_of_the_sigmoid_loss():
    """Captions travel; a device has a tile of its images and one device's captions."""
    rows = 2048
    compiled = compiled_sigmoid(8, rows, 2**40)
    text = compiled.as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
    of_tile = 4 * (rows // 8) ** 2
    memory = compiled.memory_analysis().temp_size_in_bytes
    assert memory < 5 * of_tile < 4 * rows * rows // 8
    # In blocks, one device needs far less than for all similarities.
    memory = compiled_sigmoid(1, rows, 2**18).memory_analysis().temp_size_in_bytes
    assert memory < 4 * rows * rows / 4
