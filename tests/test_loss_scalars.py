"""The learned scale and bias of a loss in training steps, runs and checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vse_jax
from configs import common
from tests import parity, programs
from tests.test_train_step import VOCABULARY, make_batch, record_gradients
from vse_jax import loss_scalars, parallel, run_config
from vse_jax.checkpoint import Checkpoints
from vse_jax.exporting import export, model_card
from vse_jax.exporting.encoders import encoders
from vse_jax.models.vse import VSE
from vse_jax.optimizer import create_optimizer
from vse_jax.state_placement import StatePlacement
from vse_jax.train_step import TrainState, create_train_state, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

RATE = 0.01
STARTS = {"infonce": {"scale": 1 / 0.07}, "sigmoid": {"scale": 10.0, "bias": -10.0}}


def settings_of(config, name, **options):
    config.loss.update(name=name, **options)
    return config.loss


@pytest.mark.parametrize("name", STARTS)
def test_scalars_start_with_the_published_values(config, name):
    loss = settings_of(config, name)
    params = loss_scalars.start_params(loss)
    assert loss_scalars.metrics(loss, params) == pytest.approx(STARTS[name], rel=1e-6)
    assert loss_scalars.values(loss, params) == pytest.approx(
        (STARTS[name]["scale"], STARTS[name].get("bias", 0.0)), rel=1e-6
    )


@pytest.mark.parametrize("name", STARTS)
def test_fixed_scalars_are_no_parameters(config, name):
    loss = settings_of(config, name, scale=20.0, bias=-3.0, learn_scale=False)
    assert loss_scalars.start_params(loss) == {}
    assert loss_scalars.groups(loss) == ()
    assert loss_scalars.metrics(loss, {}) == {}
    expected = (20.0, -3.0 if name == "sigmoid" else 0.0)
    assert loss_scalars.values(loss, {}) == expected


def test_triplet_loss_has_no_scalars(config):
    assert loss_scalars.start_params(config.loss) == {}
    assert loss_scalars.groups(config.loss) == ()


def test_weight_decay_leaves_the_scalars_alone(config):
    """Unless a group of the user has a number, even if it is for all parameters."""
    loss = settings_of(config, "sigmoid")
    params = {"text": {"kernel": jnp.ones(3)}, **loss_scalars.start_params(loss)}
    still = jax.tree.map(jnp.zeros_like, params)
    own = common.parameter_group("loss/bias", weight_decay=0.5)
    without_number = [
        ((common.parameter_group(pattern, learning_rate=2),), -10.0)
        for pattern in ("loss/.*", "loss/bias", ".*", "(?i)LOSS/.*|text/.*")
    ]
    decaying = (own,), -10 * (1 - RATE * 0.5)
    for groups, bias in (((), -10.0), decaying, *without_number):
        optimizer = create_optimizer(
            config.optimizer,
            optax.constant_schedule(RATE),
            (*groups, *loss_scalars.groups(loss)),
        )
        updates, _ = optimizer.update(still, optimizer.init(params), params)
        after = optax.apply_updates(params, updates)
        assert (after["text"]["kernel"] < 1).all()
        assert after["loss"]["log_scale"] == params["loss"]["log_scale"]
        assert after["loss"]["bias"] == pytest.approx(bias, rel=1e-6)


def mapped_step(config, devices, backend, *, sharded=False, microbatches=1):
    """Returns a function from a start of the scalars to the state after a step."""
    loss, batch = config.loss, make_batch()
    settings = config.optimizer.copy_and_resolve_references()
    settings.sharded = sharded
    groups, schedule = loss_scalars.groups(loss), optax.constant_schedule(RATE)
    optimizer = optax.chain(
        record_gradients(), create_optimizer(settings, schedule, groups)
    )
    model = VSE(
        "global", "gru", VOCABULARY, word_dim=3, embed_dim=8, train=True
    )  # no batch normalization, so that microbatches change nothing
    placement = StatePlacement(optimizer, sharded=sharded)
    step = parallel.map_over_devices(
        make_train_step(
            model.clone(gather_over_devices=parallel.gather),
            optimizer,
            schedule,
            loss,
            "selective",
            groups,
            microbatches=microbatches,
            sharded=sharded,
        ),
        (placement.specs, parallel.SPLIT),
        (placement.specs, parallel.REPLICATED),
        devices=jax.devices()[:devices],
        backend=backend,
    )
    state = create_train_state(model, optimizer, batch, 0, loss)
    parts = {x: y.reshape(devices, -1, *y.shape[1:]) for x, y in batch.items()}

    def run(**scalars):
        params = {**state.params, "loss": {**state.params["loss"], **scalars}}
        start = jax.tree.map(np.asarray, state.replace(params=params))
        if devices > 1:
            start = placement.put(start)
        after, metrics = step(start, parts)
        return placement.fetch(after), parallel.unreplicate(metrics)

    return run


@pytest.mark.parametrize("name", STARTS)
def test_step_is_the_same_on_any_devices(config, name):
    """With microbatches, a split optimizer and both mappings too."""
    settings_of(config, name)
    one = mapped_step(config, 1, "pmap")
    expected, metrics = one()
    for scalar, start in STARTS[name].items():
        assert metrics[scalar] == pytest.approx(start, rel=1e-6)
    gradients = expected.opt_state[0]
    assert "hard_share" not in metrics
    norms = [np.sqrt((g**2).sum()) for g in jax.tree.leaves(gradients)]
    np.testing.assert_allclose(
        metrics["gradient_norm"], np.linalg.norm(norms), rtol=1e-5
    )
    assert min(abs(g) for g in gradients["loss"].values()) > 1e-3
    close = {"rtol": 1e-5, "atol": 1e-5}
    for backend, options in (
        ("pmap", {"microbatches": 2}),
        ("shard_map", {"sharded": True}),
    ):
        found, of_found = mapped_step(config, 8, backend, **options)()
        parity.assert_trees_close(of_found, metrics, **close)
        parity.assert_trees_close(found.opt_state[0], gradients, **close)
        parity.assert_trees_close(
            found.params["loss"], expected.params["loss"], **close
        )
    largest = one(log_scale=np.float32(5))[0].params["loss"]["log_scale"]
    if name == "infonce":
        assert largest == np.float32(np.log(100.0))
    else:
        assert largest == pytest.approx(5.0, abs=2 * RATE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the program with the sigmoid loss and a cosine schedule."""
    place = programs.playground(tmp_path_factory.getbasetemp())
    workdir = place.workdir("sigmoid")
    finished = place.run(
        f"--workdir={workdir}",
        "--config.loss.name=sigmoid",
        "--config.loss.bias=-5",
        "--config.epochs=1",
        "--config.optimizer.schedule=cosine",
        "--config.optimizer.warmup_epochs=0.2",
        "--config.model.pooling=esa",
    )
    assert finished.returncode == 0, finished.stderr
    return workdir, finished


def test_run_logs_and_saves_its_scalars(trained):
    workdir, finished = trained
    curves = programs.curves(workdir)
    assert curves["scale"][1] == pytest.approx(10.0)
    assert curves["bias"][1] == pytest.approx(-5.0)
    assert "hard_share" not in curves
    assert "  scale 10.00  " in finished.stderr
    saved = programs.restored(workdir, 25).variables["params"]
    for encoder in (saved["image"]["encoder"], saved["text"]):
        assert encoder["pooling"]["logits"]["kernel"].shape == (16, 16)
    learned = saved["loss"]
    assert learned.keys() == {"log_scale", "bias"}
    assert 0 < abs(np.exp(learned["log_scale"]) - 10) < 1
    rates = [curves["learning_rate"][step] for step in range(1, 26)]
    rise = np.arange(1, 6) / 5
    fall = (1 + np.cos(np.pi * np.arange(20) / 20)) / 2
    np.testing.assert_allclose(rates, 5e-4 * np.append(rise, fall), rtol=1e-5)


def test_model_without_the_scalars_embeds_alike(trained, tmp_path):
    workdir, _ = trained
    restored = programs.restored(workdir, 25)
    params = dict(restored.variables["params"])
    del params["loss"]
    state = TrainState(
        np.int32(25), params, restored.variables["batch_stats"], opt_state={}
    )
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(state, restored.run)
    checkpoints.close()
    embedded = [
        vse_jax.load(str(folder)).embed_captions(["a red dog runs", "far"])
        for folder in (workdir, tmp_path)
    ]
    np.testing.assert_array_equal(*embedded)
    assert np.abs(embedded[0][0] - embedded[0][1]).max() > 1e-3


def test_model_card_names_the_loss_and_the_pooling(trained):
    workdir, _ = trained
    restored = programs.restored(workdir, 25)
    config = run_config.from_json(restored.run["config"])
    summary = export.summarize(restored, config, encoders(restored, {}))
    card = model_card.write(restored.run, config, summary, [])
    assert "| `loss.name` | sigmoid |" in card
    assert "loss.mining" not in card
    for title in ("Sigmoid Loss for Language", "External Space Attention"):
        assert title in " ".join(card.split())
    assert "Selectively Hard" not in card
