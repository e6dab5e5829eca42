"""Several views of each image and caption: the loss, the model and ESA's training."""

import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity, programs
from tests.test_train_step import BATCH, VOCABULARY, adamw, make_batch, step_on
from vse_jax import parallel, run_config
from vse_jax.exporting import export, model_card
from vse_jax.exporting.encoders import encoders
from vse_jax.global_batch import global_costs, total_loss
from vse_jax.loss_scalars import Scalars
from vse_jax.losses import least_similar
from vse_jax.models.pooling import POOLINGS
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.models.vse import VSE
from vse_jax.torch_import import parameter_names
from vse_jax.train_step import create_train_state

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

MARGIN, EPSILON, SCALE = 0.2, 0.1, 7.0
PAIRS, VIEWS, DIM = 16, 2, 6  # two pairs on each of eight devices


@functools.cache
def problem():
    """Unit embeddings `[PAIRS, VIEWS, DIM]`, float64, and image ids; one repeats."""
    rng = np.random.default_rng(5)
    images = rng.normal(size=(PAIRS, 1, DIM)) + 0.4 * rng.normal(
        size=(PAIRS, VIEWS, DIM)
    )
    captions = images[:, ::-1] + 0.6 * rng.normal(size=images.shape)
    image_id = np.arange(PAIRS, dtype=np.int32)
    image_id[13] = image_id[2]
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (images, captions)]
    return *unit, image_id


def naive_triplet(positive, negatives, mining):
    hinges = [max(0.0, MARGIN + negative - positive) for negative in negatives]
    if mining == "selective" and abs(positive - max(negatives)) < EPSILON:
        return sum(hinges) / len(hinges)
    return sum(hinges) if mining == "all" else max(hinges)


def naive_costs(images, captions, image_id, name, mining, weight):
    """Loops over the anchors of both directions: `[2, PAIRS * VIEWS]`."""
    costs = []
    for anchors, partners in ((images, captions), (captions, images)):
        for pair in range(PAIRS):
            for anchor in anchors[pair]:
                positive = min(anchor @ partner for partner in partners[pair])
                negatives = [
                    anchor @ view
                    for other in range(PAIRS)
                    if image_id[other] != image_id[pair]
                    for view in partners[other]
                ]
                cost = naive_triplet(positive, negatives, mining)
                if name == "infonce":
                    terms = sum(np.exp(SCALE * x) for x in [positive, *negatives])
                    own = -np.log(np.exp(SCALE * positive) / terms)
                    cost = own + weight * cost
                costs.append(cost)
    return np.reshape(costs, (2, -1))


def on_devices(devices, name, mining, weight, **options):
    """Returns the loss, its gradients and the costs of both directions."""
    settings = parity.loss_settings(name=name, epsilon=EPSILON, triplet_weight=weight)

    def of_device(images, captions, image_id):
        def loss(images, captions):
            costs = global_costs(
                images,
                captions,
                image_id,
                settings,
                mining,
                Scalars(SCALE),
                **options,
            )
            return total_loss(costs, settings), costs

        found = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (value, costs), gradients = found(images, captions)
        return parallel.sum_over_devices(value), gradients, [x.cost for x in costs]

    mapped = jax.pmap(
        of_device, axis_name=parallel.AXIS, devices=jax.devices()[:devices]
    )
    images, captions, image_id = problem()
    arrays = (np.float32(images), np.float32(captions), image_id)
    parts = (x.reshape(devices, -1, *x.shape[1:]) for x in arrays)
    value, gradients, costs = mapped(*parts)
    gradients = [np.asarray(x).reshape(images.shape) for x in gradients]
    return value[0], gradients, np.asarray(costs).reshape(2, -1)


@pytest.mark.parametrize(
    ("name", "mining", "weight"),
    [
        ("triplet", "all", 0.0),
        ("triplet", "hardest", 0.0),
        ("triplet", "selective", 0.0),
        ("infonce", "selective", 0.0),
        ("infonce", "selective", 3.0),
    ],
)
def test_loss_and_gradient_are_those_of_loops(name, mining, weight):
    images, captions, image_id = problem()
    naive = functools.partial(
        naive_costs, image_id=image_id, name=name, mining=mining, weight=weight
    )
    costs = naive(images, captions)
    assert (costs > 0).mean() > 0.2
    value, gradients, found = on_devices(8, name, mining, weight)
    np.testing.assert_allclose(found, costs, atol=1e-5)
    np.testing.assert_allclose(value, costs.mean(), rtol=1e-5)
    rng, step = np.random.default_rng(1), 1e-6
    for _ in range(5):
        ways = [rng.normal(size=images.shape) for _ in range(2)]
        ends = [
            naive(images + sign * step * ways[0], captions + sign * step * ways[1])
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]).mean() / (2 * step)
        of_gradient = sum((x * y).sum() for x, y in zip(gradients, ways, strict=True))
        assert of_gradient == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_blocks_on_one_device_give_the_same():
    expected = on_devices(8, "infonce", "selective", 3.0)
    block = 4 * PAIRS * VIEWS * 5  # the last of the blocks of 5 anchors is padded
    found = on_devices(1, "infonce", "selective", 3.0, block_bytes=block)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
        found,
        expected,
    )


def test_first_of_equal_views_is_the_positive():
    scores = jnp.array([[3.0, 1, 1, 0], [2, 2, 5, 4]])
    own = jnp.array([[0, 1, 2], [3, 1, 0]])
    np.testing.assert_array_equal(least_similar(scores, own), [1, 1])


def make_views():
    """A batch of two views, `make_batch` without its other inputs."""
    batch, rng = make_batch(), np.random.default_rng(2)
    time = batch["tokens"].shape[1]
    regions = batch["regions"].shape[1]
    order = rng.random((BATCH, VIEWS, regions))
    order += np.arange(regions) >= batch["region_count"][:, None, None]
    return {
        "regions": batch["regions"],
        "region_count": batch["region_count"],
        "view_regions": order.argsort(axis=-1).astype(np.int32),
        "view_region_count": rng.integers(
            1, batch["region_count"][:, None] + 1, (BATCH, VIEWS)
        ).astype(np.int32),
        "tokens": rng.integers(1, VOCABULARY, (BATCH, VIEWS, time)).astype(np.int32),
        "token_count": rng.integers(1, time + 1, (BATCH, VIEWS)).astype(np.int32),
        "image_id": np.arange(BATCH, dtype=np.int32),
    }


@pytest.mark.parametrize("pooling", POOLINGS)
def test_views_are_embedded_as_images_and_captions_of_their_own(pooling):
    """In evaluation, where the statistics of a batch do not matter."""
    batch = make_views()
    model = VSE(
        "region_residual",
        {"max": "gru", "mean": "bert"}.get(pooling, "bigru_gpo"),
        VOCABULARY,
        word_dim=3,
        embed_dim=8,
        pooling=pooling,
        text_tower=TextSizes(1, 8, 2, 12, 16, VOCABULARY, "gelu", 1e-12),
    )
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    embed = jax.jit(model.apply)
    images, captions = embed(variables, batch)
    assert images.shape == captions.shape == (BATCH, VIEWS, 8)
    for view in range(VIEWS):
        alone = embed(variables, view_of(batch, view))
        np.testing.assert_allclose(images[:, view], alone[0], atol=2e-6)
        np.testing.assert_allclose(captions[:, view], alone[1], atol=2e-6)
    assert np.abs(images[:, 0] - images[:, 1]).max() > 1e-3


def view_of(batch, view):
    """A batch of one view, with its regions in front, as the input pipeline moves."""
    source = batch["view_regions"][:, view]
    return {
        "regions": np.take_along_axis(batch["regions"], source[..., None], axis=1),
        "region_count": batch["view_region_count"][:, view],
        "tokens": batch["tokens"][:, view],
        "token_count": batch["token_count"][:, view],
    }


def test_step_is_the_same_on_any_devices():
    """In parts of the batch, and with dropout, which differs between views."""
    model = VSE("region_residual", "gru", VOCABULARY, 3, 8, dropout=0.2)
    optimizer, schedule = adamw(5e-4)
    batch, settings = make_views(), parity.loss_settings()
    state = create_train_state(model.clone(train=True), optimizer, batch, seed=0)
    arguments = model, optimizer, schedule, settings, "selective"
    one, eight = (
        step_on(devices, *arguments, microbatches=2)(state, batch) for devices in (1, 8)
    )
    parity.assert_trees_close(eight[1], one[1], rtol=1e-5, atol=1e-5)
    parity.assert_trees_close(
        eight[0].opt_state[0], one[0].opt_state[0], rtol=1e-4, atol=1e-5
    )
    assert one[1]["gradient_norm_image"] > 1e-3
    assert one[1]["gradient_norm_text"] > 1e-3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


OPTIONS = (
    "--config.loss.views=2",
    "--config.loss.name=infonce",
    "--config.loss.triplet_weight=3",
    "--config.epochs=1",
    "--config.data.token_lengths=(6,10)",
)


@pytest.fixture(scope="module")
def trained(place):
    """The workdir of a run whose features are streamed."""
    workdir = place.workdir("views")
    finished = place.run(f"--workdir={workdir}", *OPTIONS)
    assert finished.returncode == 0, finished.stderr
    return workdir


def test_run_is_resumed_bit_for_bit_with_its_features_on_the_devices(place, trained):
    workdir = place.workdir("views_in_parts")
    options = (f"--workdir={workdir}", *OPTIONS)
    resident = "--config.data.device_resident=True"
    stopped = programs.stop_after(
        place.start(*options, resident), "step 7/", signal.SIGTERM
    )
    assert stopped.returncode == 143, stopped.stderr
    finished = place.run(*options, resident)
    assert finished.returncode == 0, finished.stderr
    programs.assert_same_run(workdir, trained, programs.STEPS_PER_EPOCH)
    losses = programs.curves(trained)["loss"]
    assert losses[programs.STEPS_PER_EPOCH] < losses[1]


def test_model_card_names_the_views_and_their_paper(trained):
    restored = programs.restored(trained, programs.STEPS_PER_EPOCH)
    config = run_config.from_json(restored.run["config"])
    config.optimizer.average_decay = 0.99
    summary = export.summarize(restored, config, encoders(restored, {}))
    card = model_card.write(restored.run, config, summary, [])
    assert "| `loss.views` | 2 |" in card
    assert "| `optimizer.average_decay` | 0.99 |" in card
    assert "model.dropout" not in card
    assert "External Space Attention" in " ".join(card.split())


def golden_views(golden):
    """The golden batch, whose masks become the regions of the views."""
    kept = golden["in/kept"]  # [pairs, views, regions]
    pairs, _, regions = kept.shape
    return {
        "regions": golden["in/regions"],
        "region_count": np.full(pairs, regions, np.int32),
        "view_regions": np.argsort(~kept, axis=-1, kind="stable").astype(np.int32),
        "view_region_count": kept.sum(-1, dtype=np.int32),
        "tokens": golden["in/tokens"],
        "token_count": golden["in/token_count"],
        "image_id": np.arange(pairs, dtype=np.int32),
    }


def of_esa(golden, prefix):
    """Converts arrays by ESA's names; the bias of its pooling cancels out."""
    arrays = {
        name.removeprefix(f"{prefix}/"): array
        for name, array in golden.items()
        if name.startswith(f"{prefix}/")
    }
    known = {name: x for name, x in arrays.items() if "linear1" not in name}
    params = parameter_names.variables(known)["params"]
    for encoder, branch in (
        (params["image"]["encoder"], "img"),
        (params["text"], "txt"),
    ):
        kernel = arrays[f"{branch}.linear1.weight"].T
        encoder["pooling"] = {"logits": {"kernel": kernel}}
    return params


@pytest.mark.parametrize("mining", ["hardest", "all"])
def test_training_step_is_that_of_esa(mining):
    """Embeddings, loss and gradients of the public code's BiGRU model."""
    golden = parity.load("esa_train")
    params, batch = of_esa(golden, "param"), golden_views(golden)
    words, word_dim = golden["param/txt.embed.weight"].shape
    model = VSE(
        "region_parallel",
        "bigru_gpo",
        words,
        word_dim,
        embed_dim=golden["out/images"].shape[-1],
        pooling="esa",
        train=True,
    )
    statistics = jax.eval_shape(model.init, jax.random.key(0), batch)["batch_stats"]
    statistics = jax.tree.map(lambda x: jnp.zeros(x.shape), statistics)
    margin = float(golden["cfg/margin"])
    settings = parity.loss_settings(margin=margin, reduction="sum")

    def loss_of(params):
        variables = {"params": params, "batch_stats": statistics}
        found, _ = model.apply(variables, batch, mutable=["batch_stats"])
        loss = parity.batch_loss(*found, settings, mining, batch["image_id"])
        return loss, found

    gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (loss, (images, captions)), of_params = gradient(params)
    np.testing.assert_allclose(images, golden["out/images"], atol=1e-5)
    np.testing.assert_allclose(captions, golden["out/captions"], atol=1e-5)
    assert loss == pytest.approx(golden[f"out/loss_{mining}"], rel=1e-5)
    expected = of_esa(golden, f"grad_{mining}")
    parity.assert_trees_close(of_params, expected, rtol=1e-3, atol=1e-4)
    sizes = [np.abs(x).max() for x in jax.tree.leaves(of_params["image"])]
    assert np.median(sizes) > 1e-2
