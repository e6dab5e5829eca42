import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from vse_jax.optimizer import create_optimizer, create_schedule
from vse_jax.stages import Stage

LEARNING_RATE, DECAY = 0.1, 0.3


@pytest.fixture
def settings(config):
    config.optimizer.learning_rate = LEARNING_RATE
    config.optimizer.weight_decay = DECAY
    return config.optimizer


def naive_adam(value, gradients, *, weight_decay=0.0, clip=0.0):
    """Computes PyTorch's equations of AdamW in float64 for one array."""
    first = second = np.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        norm = np.sqrt((gradient**2).sum())
        if clip and norm > clip:
            gradient = gradient * clip / norm
        value = value - LEARNING_RATE * weight_decay * value
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        value = value - LEARNING_RATE * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return value


def run(settings, value, gradients):
    """Makes the same updates with our optimizer; two parameters share the array."""
    optimizer = create_optimizer(settings, optax.constant_schedule(LEARNING_RATE))
    params = {"a": jnp.float32(value[:2]), "b": jnp.float32(value[2:])}
    state = optimizer.init(params)
    for gradient in gradients:
        gradient = {"a": jnp.float32(gradient[:2]), "b": jnp.float32(gradient[2:])}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return np.concatenate([params["a"], params["b"]])


@pytest.fixture
def problem():
    """Gradients whose norms are about 0.2, 2 and 20."""
    rng = np.random.default_rng(0)
    scales = np.array([0.1, 10.0, 1.0])[:, None]
    return rng.normal(size=5), rng.normal(size=(3, 5)) * scales


def test_adamw_decouples_weight_decay_from_the_gradient(settings, problem):
    settings.gradient_clip = 0
    expected = naive_adam(*problem, weight_decay=DECAY)
    np.testing.assert_allclose(run(settings, *problem), expected, atol=1e-5)
    assert np.abs(expected - naive_adam(*problem)).max() > 1e-3


def test_adam_does_not_decay_weights(settings, problem):
    settings.name, settings.gradient_clip = "adam", 0
    expected = naive_adam(*problem)
    np.testing.assert_allclose(run(settings, *problem), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_clips_the_norm_of_all_gradients_together(settings, problem, name):
    settings.name, settings.gradient_clip = name, 2.0
    decay = DECAY if name == "adamw" else 0
    expected = naive_adam(*problem, weight_decay=decay, clip=2.0)
    np.testing.assert_allclose(run(settings, *problem), expected, atol=1e-5)
    unclipped = naive_adam(*problem, weight_decay=decay)
    assert np.abs(expected - unclipped).max() > 1e-3


def stage(*decay_epochs):
    return Stage(0, 99, LEARNING_RATE, decay_epochs)


def test_schedule_decays_after_each_of_the_epochs():
    schedule = create_schedule(stage(2, 3), 0.5, steps_per_epoch=10)
    # An update uses the rate of the number of updates before it.
    for step, factor in ((0, 1), (19, 1), (20, 0.5), (29, 0.5), (30, 0.25), (99, 0.25)):
        assert schedule(step) == pytest.approx(LEARNING_RATE * factor), step


@pytest.mark.parametrize(
    ("decay_epochs", "expected"),
    [
        ((2, 2), {19: 1, 20: 0.25}),
        ((2.01, 2.09), {19: 1, 20: 0.25}),  # both within step 20
        ((2.1, 2.0), {19: 1, 20: 0.5, 21: 0.25}),
        ((0, 3), {0: 0.5, 29: 0.5, 30: 0.25}),
        ((0.0, 0.05), {0: 0.25, 98: 0.25}),
        ((9.9, 1e300), {0: 1, 98: 1}),  # the stage has 99 steps
    ],
)
def test_every_decay_epoch_of_the_stage_counts(decay_epochs, expected):
    schedule = create_schedule(stage(*decay_epochs), 0.5, steps_per_epoch=10)
    for step, factor in expected.items():
        assert schedule(step) == pytest.approx(LEARNING_RATE * factor), step


def test_decay_epoch_is_rounded_as_a_decimal_number():
    """0.29 * 100 is 28.999999999999996."""
    schedule = create_schedule(stage(0.29), 0.5, steps_per_epoch=100)
    assert schedule(28) == pytest.approx(LEARNING_RATE)
    assert schedule(29) == pytest.approx(LEARNING_RATE * 0.5)


def test_schedule_without_decay_is_constant():
    schedule = create_schedule(stage(), 0.5, steps_per_epoch=10)
    assert schedule(0) == schedule(1000) == pytest.approx(LEARNING_RATE)


def rates(schedule, steps):
    return [float(schedule(jnp.int32(step))) for step in range(steps)]


def test_cosine_falls_to_zero_at_the_end_of_its_stage():
    cosine = Stage(10, 30, LEARNING_RATE, (1,), schedule="cosine")
    expected = LEARNING_RATE * (1 + np.cos(np.pi * np.arange(21) / 20)) / 2
    found = rates(create_schedule(cosine, 0.5, steps_per_epoch=10), 21)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("name", ["steps", "cosine"])
def test_rate_rises_linearly_during_the_warm_up(name):
    """0.29 epochs of 100 steps are 29 steps; the cosine begins after them."""
    warm = Stage(0, 99, LEARNING_RATE, (0.5,), schedule=name, warmup_epochs=0.29)
    found = rates(create_schedule(warm, 0.5, steps_per_epoch=100), 99)
    np.testing.assert_allclose(found[:29], LEARNING_RATE * np.arange(1, 30) / 29)
    rest = np.repeat([1, 0.5], [21, 49])
    if name == "cosine":
        rest = (1 + np.cos(np.pi * np.arange(70) / 70)) / 2
    np.testing.assert_allclose(found[29:], LEARNING_RATE * rest, atol=1e-8)


PARAMS = {
    "image": {"backbone": {"kernel": 4.0, "bias": 3.0}, "encoder": {"kernel": 2.0}},
    "text": {"embedding": 5.0},
}


def updates(optimizer, params, steps=2):
    """Makes several updates with gradients that are ten times the parameters."""
    params = jax.tree.map(lambda x: x * jnp.arange(1.0, 4.0), params)
    state, after = optimizer.init(params), params
    for _ in range(steps):
        gradients = jax.tree.map(lambda x: 10 * x, params)
        found, state = optimizer.update(gradients, state, after)
        after = optax.apply_updates(after, found)
    return after


def test_each_group_is_updated_as_by_plain_optax(settings):
    """A group's learning rate scales AdamW's decay too."""
    settings.gradient_clip = 0
    groups = (
        common.parameter_group("image/backbone/.*", learning_rate=0.1),
        common.parameter_group("text/.*", learning_rate=3, weight_decay=0.7),
        common.parameter_group("image/.*", weight_decay=0.0),
    )
    schedule = optax.piecewise_constant_schedule(LEARNING_RATE, {1: 0.5})
    found = updates(create_optimizer(settings, schedule, groups), PARAMS)
    for subtree, factor, decay in (
        (lambda tree: tree["image"]["backbone"], 0.1, DECAY),
        (lambda tree: tree["text"], 3.0, 0.7),
        (lambda tree: tree["image"]["encoder"], 1.0, 0.0),
    ):
        plain = optax.adamw(lambda n, f=factor: f * schedule(n), weight_decay=decay)
        expected = updates(plain, subtree(PARAMS))
        jax.tree.map(np.testing.assert_array_equal, subtree(found), expected)


def test_parameters_of_no_group_are_updated_as_without_groups(settings):
    settings.gradient_clip = 0
    schedule = optax.constant_schedule(LEARNING_RATE)
    groups = (common.parameter_group("text/.*", learning_rate=0.5),)
    found, expected = (
        updates(create_optimizer(settings, schedule, each), PARAMS)
        for each in (groups, ())
    )
    jax.tree.map(np.testing.assert_array_equal, found["image"], expected["image"])
    assert not np.array_equal(found["text"]["embedding"], expected["text"]["embedding"])


def test_clipping_uses_the_norm_of_all_groups(settings):
    """Groups with the default options change nothing."""
    groups = (
        common.parameter_group("image/.*", weight_decay=DECAY),
        common.parameter_group("text/.*"),
    )
    schedule = optax.constant_schedule(LEARNING_RATE)
    found, expected = (
        updates(create_optimizer(settings, schedule, each), PARAMS)
        for each in (groups, ())
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_frozen_group_neither_moves_nor_decays_nor_counts(settings, clip):
    """The others are updated and clipped as if it did not exist."""
    settings.gradient_clip = clip
    schedule = optax.constant_schedule(LEARNING_RATE)
    groups = (common.parameter_group("image/backbone/.*", frozen=True),)
    optimizer = create_optimizer(settings, schedule, groups)
    found = updates(optimizer, PARAMS)
    alone = {"image": {"encoder": PARAMS["image"]["encoder"]}, "text": PARAMS["text"]}
    expected = updates(create_optimizer(settings, schedule), alone)
    backbone = found["image"].pop("backbone")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    unchanged = updates(optimizer, PARAMS, steps=0)["image"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, backbone, unchanged)


def test_frozen_group_has_no_state(settings):
    groups = (common.parameter_group("image/.*", frozen=True),)
    schedule = optax.constant_schedule(LEARNING_RATE)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = create_optimizer(settings, schedule, groups).init(params)
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    assert any(path.endswith("mu/text/embedding") for path in paths)
    assert not [path for path in paths if "image" in path]
