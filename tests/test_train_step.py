import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from tests import parity, tpu
from vse_jax import parallel
from vse_jax.losses import MININGS
from vse_jax.models.image_encoders import Backbone
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.models.vse import VSE
from vse_jax.optimizer import create_optimizer
from vse_jax.torch_import import parameter_names
from vse_jax.train_step import (
    TrainState,
    create_train_state,
    make_train_step,
)

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

BATCH, TIME, VOCABULARY = 16, 5, 20


# Covers every mining, and every encoder at least once.
MODELS = {
    "all": ("global", "gru"),
    "mean": ("region_residual", "gru"),
    "hardest": ("region_residual", "gru"),
    "semi_hard": ("region_parallel", "gru"),
    "selective": ("region_residual", "bigru_gpo"),
}
OF_PHOTOS = ("hardest",)


def record_gradients():
    """Returns a transformation that stores the last gradients and changes nothing."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradients, state, params=None: (gradients, gradients),
    )


def adamw(learning_rate, *, weight_decay=0.01, clip=2.0):
    """Returns the optimizer under test, preceded by the recorder, and its schedule."""
    settings = parity.ml_collections.ConfigDict(
        {
            "name": "adamw",
            "weight_decay": weight_decay,
            "gradient_clip": clip,
            "sharded": False,
        }
    )
    schedule = optax.constant_schedule(learning_rate)
    optimizer = optax.chain(record_gradients(), create_optimizer(settings, schedule))
    return optimizer, schedule


def step_on(
    devices, model, optimizer, schedule, settings, mining, groups=(), **options
):
    """Returns a step on `devices` devices that takes and returns arrays on the host."""
    model = model.clone(train=True, gather_over_devices=parallel.gather)
    step = jax.pmap(
        make_train_step(
            model, optimizer, schedule, settings, mining, groups, **options
        ),
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        devices=jax.devices()[:devices],
    )

    def run(state, batch):
        parts = {
            name: x.reshape(devices, -1, *x.shape[1:]) for name, x in batch.items()
        }
        state, metrics = step(state, parts)
        for leaf in jax.tree.leaves((state, metrics)):
            leaf = np.asarray(leaf)
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        return jax.tree.map(lambda x: np.asarray(x[0]), (state, metrics))

    return run


def make_batch():
    """Draws a batch with ragged regions and captions; one image occurs twice."""
    rng = np.random.default_rng(0)
    image_id = np.arange(BATCH, dtype=np.int32)
    image_id[13] = image_id[2]
    arrays = {
        "regions": rng.normal(size=(BATCH, 4, 6)).astype(np.float32),
        "feature": rng.normal(size=(BATCH, 6)).astype(np.float32),
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8),
        "region_count": rng.integers(1, 5, BATCH).astype(np.int32),
        "tokens": rng.integers(1, VOCABULARY, (BATCH, TIME)).astype(np.int32),
        "token_count": rng.integers(1, TIME + 1, BATCH).astype(np.int32),
        "image_id": image_id,
    }
    for name in ("regions", "feature", "image"):
        arrays[name][13] = arrays[name][2]
    arrays["region_count"][13] = arrays["region_count"][2]
    return arrays


def test_frozen_parameters_stay_bit_identical_and_get_no_gradient():
    """This includes signs of zeros. Their gradient does not count in the norms."""
    model = VSE("global", "gru", VOCABULARY, word_dim=3, embed_dim=8)
    groups = (
        common.parameter_group("text/.*", frozen=True),
        common.parameter_group("image/.*/bias", learning_rate=0.5),
    )
    schedule = optax.constant_schedule(5e-4)
    optimizer = create_optimizer(common.get_config().optimizer, schedule, groups)
    batch = make_batch()
    state = create_train_state(model.clone(train=True), optimizer, batch, seed=0)
    params = jax.tree.map(np.array, state.params)
    for leaf in jax.tree.leaves(params["text"]):
        leaf[:2] = -0.0
    before = state.replace(params=params)
    settings = parity.loss_settings()
    step = step_on(1, model, optimizer, schedule, settings, "all", groups)
    after, metrics = step(before, batch)
    for name, is_same in (("image", False), ("text", True)):
        for old, new in zip(
            jax.tree.leaves(params[name]),
            jax.tree.leaves(after.params[name]),
            strict=True,
        ):
            assert (old.tobytes() == new.tobytes()) == is_same
    assert metrics["gradient_norm_text"] == 0
    assert metrics["gradient_norm"] == metrics["gradient_norm_image"] > 0
    # A first step of Adam has the size of the learning rate.
    moved = np.abs(after.params["image"]["encoder"]["projection"]["bias"])
    assert 0 < moved.max() < 0.51 * 5e-4


@pytest.mark.parametrize("mining", MININGS)
def test_eight_devices_make_the_step_of_one(mining):
    image_encoder, text_encoder = MODELS[mining]
    backbone = Backbone("stem") if mining in OF_PHOTOS else None
    model = VSE(
        image_encoder,
        text_encoder,
        VOCABULARY,
        word_dim=3,
        embed_dim=8,
        backbone=backbone,
    )
    optimizer, schedule = adamw(5e-4)
    settings = parity.loss_settings(epsilon=0.05)
    batch = make_batch()
    state = create_train_state(model.clone(train=True), optimizer, batch, seed=0)
    (one, one_metrics), (eight, eight_metrics) = (
        step_on(devices, model, optimizer, schedule, settings, mining)(state, batch)
        for devices in (1, 8)
    )
    assert one_metrics["loss"] > 0.05
    assert one_metrics["gradient_norm_image"] > 1e-3
    assert one_metrics["gradient_norm_text"] > 1e-3
    if mining == "selective":
        assert 0 < one_metrics["hard_share"] < 1  # both branches are used
    close = {"rtol": 1e-5, "atol": 1e-5}
    parity.assert_trees_close(eight_metrics, one_metrics, **close)
    gradients = [state.opt_state[0] for state in (eight, one)]
    parity.assert_trees_close(*gradients, **close)
    parity.assert_trees_close(eight.batch_stats, one.batch_stats, **close)
    parity.assert_trees_close(eight.params, one.params, **close)

    assert one.step == eight.step == 1
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients[1])))
    np.testing.assert_allclose(one_metrics["gradient_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(one_metrics["learning_rate"], 5e-4)


def mapped_step(backend, devices=None, text_encoder="bigru_gpo", pooling="gpo"):
    """Returns a training step of RVSE++ on a backend, with a state and a batch."""
    optimizer, schedule = adamw(5e-3)
    model = VSE(
        "region_residual",
        text_encoder,
        VOCABULARY,
        pooling=pooling,
        word_dim=3,
        embed_dim=8,
        train=True,
        gather_over_devices=parallel.gather,
    )
    settings = parity.loss_settings()
    step = parallel.map_over_devices(
        make_train_step(model, optimizer, schedule, settings, "selective"),
        (parallel.REPLICATED, parallel.SPLIT),
        parallel.REPLICATED,
        donate_argnums=0,
        devices=devices,
        backend=backend,
    )
    batch = make_batch()
    del batch["image"], batch["feature"]
    return step, create_train_state(model, optimizer, batch, seed=0), batch


def test_backends_give_equal_parameters_after_twenty_steps():
    """On eight devices, bit for bit."""
    ends = []
    for backend in parallel.BACKENDS:
        # A model that compiles quickly.
        step, state, batch = mapped_step(backend, None, "gru", "mean")
        start, state = state, parallel.replicate(state)
        for _ in range(20):
            state, metrics = step(state, parallel.put_rows(batch))
        ends.append(parallel.unreplicate((state, metrics)))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    changed = jax.tree.map(lambda x, y: np.any(x != y), start.params, ends[0][0].params)
    assert any(jax.tree.leaves(changed))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_backends_are_the_same_program(platform):
    """So what is compiled or measured of one backend holds for the other."""
    devices = tpu.devices("v5e:2x4") if platform == "tpu" else None
    programs = []
    for backend in parallel.BACKENDS:
        step, state, batch = mapped_step(backend, devices)
        text = step.lower(state, parallel.shard(batch)).as_text()
        programs.append(re.sub(r"^module @\w+", "module", text))
    assert programs[0] == programs[1]
    assert "num_partitions = 8" in programs[0]


BERT = TextSizes(1, 8, 2, 12, 20, VOCABULARY, "gelu", 1e-6)
DROPOUT = {
    "inputs": {"text_encoder": "gru", "dropout": 0.4},
    "bert": {"text_encoder": "bert", "text_tower": BERT, "text_dropout": 0.2},
}


def dropping_step(devices, dropout, **options):
    """Returns what a step with dropout makes of a state, as a function of the step."""
    model = VSE(
        image_encoder="global",
        vocabulary_size=VOCABULARY,
        word_dim=3,
        embed_dim=8,
        **DROPOUT[dropout],
    )
    optimizer, schedule = adamw(5e-4)
    batch = make_batch() | {"image_id": np.arange(BATCH, dtype=np.int32)}
    state = create_train_state(model.clone(train=True), optimizer, batch, seed=0)
    settings = parity.loss_settings()
    step = step_on(devices, model, optimizer, schedule, settings, "all", **options)
    return lambda number: step(state.replace(step=np.int32(number)), batch)


@pytest.mark.parametrize("dropout", DROPOUT)
def test_dropout_is_a_function_of_seed_and_step(dropout):
    """On any number of devices, and in any parts of the batch."""
    one, other_seed = dropping_step(1, dropout), dropping_step(1, dropout, seed=1)
    expected, again = one(3), one(3)
    found = dropping_step(8, dropout, microbatches=2)(3)
    parity.assert_trees_close(found[1], expected[1], rtol=1e-5, atol=1e-5)
    parity.assert_trees_close(
        found[0].opt_state[0], expected[0].opt_state[0], rtol=1e-4, atol=1e-5
    )
    jax.tree.map(np.testing.assert_array_equal, expected, again)
    losses = [metrics["loss"] for _, metrics in (expected, one(4), other_seed(3))]
    assert min(np.abs(np.diff([*losses, losses[0]]))) > 1e-4


def test_state_averages_its_variables():
    """Those of batch normalization too."""
    model = VSE("region_residual", "gru", VOCABULARY, word_dim=3, embed_dim=8)
    optimizer, schedule = adamw(1e-2)
    batch, settings, decay = make_batch(), parity.loss_settings(), 0.8
    step = step_on(8, model, optimizer, schedule, settings, "mean", average_decay=decay)
    training = model.clone(train=True)
    state = create_train_state(training, optimizer, batch, seed=0, averages=True)
    assert state.replace(average=None).result["params"] is state.params
    passed = []
    for _ in range(3):
        state, _ = step(state, batch)
        passed.append(state.variables)
    weights = np.array([decay**2, decay, 1]) / (decay**2 + decay + 1)
    expected = jax.tree.map(
        lambda *steps: np.tensordot(weights, np.stack(steps), 1), *passed
    )
    parity.assert_trees_close(state.result, expected, atol=1e-6)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), state.result, passed[-1])
    assert min(jax.tree.leaves(moved["batch_stats"])) > 1e-3


def test_parameters_are_drawn_by_the_seed():
    model = VSE("global", "gru", VOCABULARY, word_dim=3, embed_dim=8, train=True)
    optimizer, _ = adamw(5e-4)
    first, second, other = (
        create_train_state(model, optimizer, make_batch(), seed).params
        for seed in (3, 3, 4)
    )
    parity.assert_trees_close(first, second, atol=0)
    words = [params["text"]["words"]["embedding"] for params in (first, other)]
    assert np.abs(words[0] - words[1]).max() > 0.01


@functools.cache
def golden_step(margin, epsilon):
    """The published training step on one device, compiled once for both files."""
    golden = parity.load("rvsepp_adamw3")
    optimizer, schedule = adamw(
        float(golden["cfg/learning_rate"]),
        weight_decay=float(golden["cfg/weight_decay"]),
        clip=float(golden["cfg/grad_clip"]),
    )
    model = parity.model(golden, "region_residual", "bigru_gpo")
    settings = parity.loss_settings(margin=margin, epsilon=epsilon)
    step = step_on(1, model, optimizer, schedule, settings, "selective")
    return step, optimizer


def golden_start(golden, statistics):
    """Returns the step and the initial state of a golden file."""
    step, optimizer = golden_step(
        float(golden["cfg/margin"]), float(golden["cfg/epsilon"])
    )
    params = parity.variables(golden, "param")["params"]
    return step, TrainState(
        step=np.int32(0),
        params=params,
        batch_stats=statistics["batch_stats"],
        opt_state=optimizer.init(params),
    )


def test_parity_of_loss_gradients_and_statistics():
    golden = parity.load("rvsepp_train")
    # The file's own running statistics are those after the forward pass.
    before = parity.variables(parity.load("rvsepp_eval"), "param")
    step, state = golden_start(golden, before)
    after, metrics = step(state, parity.batch(golden))
    np.testing.assert_allclose(metrics["loss"], golden["out/loss_selhn"], atol=1e-5)
    # The gradient of img.mlp.layers.0.bias is rounding noise there and zero here.
    gradients = parity.variables(golden, "grad")["params"]
    parity.assert_trees_close(after.opt_state[0], gradients, rtol=1e-4, atol=1e-5)
    statistics = parity.variables(golden, "post")["batch_stats"]
    parity.assert_trees_close(after.batch_stats, statistics, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def three_steps():
    """Golden arrays, the state after three steps, and the losses of the steps."""
    golden = parity.load("rvsepp_adamw3")
    step, state = golden_start(golden, parity.variables(golden, "param"))
    batch, losses = parity.batch(golden), []
    for _ in golden["out/losses"]:
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    return golden, state, losses


def test_parity_of_three_adamw_steps(three_steps):
    golden, after, losses = three_steps
    np.testing.assert_allclose(losses, golden["out/losses"], atol=1e-4)
    actual = parity.traverse_util.flatten_dict(
        {"params": after.params, "batch_stats": after.batch_stats}
    )
    expected = parity.traverse_util.flatten_dict(parity.variables(golden, "post"))
    assert actual.keys() == expected.keys()

    # The normalization cancels this bias, so its gradient is zero. PyTorch's gradient
    # is rounding noise, which AdamW scales up to steps of the learning rate. Ours is
    # exactly zero, so the bias only decays.
    bias = parameter_names.our_path("img.mlp.layers.0.bias")
    mean = parameter_names.our_path("img.mlp.bns.0.running_mean")
    steps, learning_rate = len(losses), float(golden["cfg/learning_rate"])
    # The running mean takes a tenth of the bias at each step, including earlier steps.
    allowed = {
        bias: steps * learning_rate * 1.01,
        mean: 0.1 * learning_rate * sum(range(steps)) + 1e-4,
    }
    for path, value in expected.items():
        np.testing.assert_allclose(
            actual[path],
            value,
            rtol=0,
            atol=allowed.get(path, 1e-4),
            err_msg=".".join(path),
        )
    decay = (1 - learning_rate * float(golden["cfg/weight_decay"])) ** steps
    original = golden["param/img.mlp.layers.0.bias"]
    np.testing.assert_allclose(actual[bias], original * decay, rtol=1e-6)


def test_parity_of_weight_decay_of_unused_words(three_steps):
    """It is a few millionths of each value, so the tolerances above hide it."""
    golden, after, losses = three_steps
    words = np.setdiff1d(
        np.arange(len(golden["param/txt.embed.weight"])), golden["in/captions"]
    )
    assert len(words)
    rate, decay = float(golden["cfg/learning_rate"]), float(golden["cfg/weight_decay"])
    expected = 1 - (1 - rate * decay) ** len(losses)
    start = golden["param/txt.embed.weight"][words].astype(np.float64)
    for end in (
        golden["post/txt.embed.weight"][words],
        after.params["text"]["words"]["embedding"][words],
    ):
        # Fit over all values, since each is rounded to about a tenth of the decay.
        lost = (start * (start - end)).sum() / (start**2).sum()
        assert lost == pytest.approx(expected, rel=0.05)
