import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vse_jax.errors import InputError
from vse_jax.optimizer import create_optimizer, create_schedule
from vse_jax.stages import Stage

LEARNING_RATE, DECAY = 0.1, 0.3


@pytest.fixture
def settings(config):
    config.optimizer.learning_rate = LEARNING_RATE
    config.optimizer.weight_decay = DECAY
    return config.optimizer


def naive_adam(value, gradients, *, weight_decay=0.0, clip=0.0):
    """PyTorch's equations of AdamW in float64, on a gradient of one array."""
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
    """The same updates by our optimizer; the array is split over two parameters."""
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


def test_adamw_decays_weights_apart_from_the_gradient(settings, problem):
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


def test_unknown_optimizer_is_refused_by_its_name(settings):
    settings.name = "sgd"
    with pytest.raises(InputError, match=r"config\.optimizer\.name is 'sgd'"):
        create_optimizer(settings, optax.constant_schedule(1.0))


def stage(*decay_epochs):
    return Stage(0, 99, LEARNING_RATE, decay_epochs, train_backbone=True)


def test_schedule_decays_after_each_of_the_epochs():
    schedule = create_schedule(stage(2, 3), 0.5, steps_per_epoch=10)
    # The update of step n is made with the rate of n updates before it.
    for step, factor in ((0, 1), (19, 1), (20, 0.5), (29, 0.5), (30, 0.25), (99, 0.25)):
        assert schedule(step) == pytest.approx(LEARNING_RATE * factor), step


def test_schedule_without_decay_is_constant():
    schedule = create_schedule(stage(), 0.5, steps_per_epoch=10)
    assert schedule(0) == schedule(1000) == pytest.approx(LEARNING_RATE)


def test_frozen_backbone_neither_moves_nor_decays_nor_counts(settings):
    """The rest is updated as if there were no backbone, the clipping included."""
    rest = {"encoder": jnp.ones(3)}
    params = {"image": {"backbone": {"kernel": jnp.ones(4)}, **rest}}
    schedule = optax.constant_schedule(LEARNING_RATE)
    updates = []
    for tree, train_backbone in ((params, False), ({"image": rest}, True)):
        optimizer = create_optimizer(settings, schedule, train_backbone)
        state = optimizer.init(tree)
        gradients = jax.tree.map(lambda x: 9 * jnp.ones_like(x), tree)
        updates.append(optimizer.update(gradients, state, tree)[0]["image"])
    frozen, alone = updates
    np.testing.assert_array_equal(frozen["backbone"]["kernel"], 0)
    np.testing.assert_array_equal(frozen["encoder"], alone["encoder"])
    assert np.abs(frozen["encoder"]).min() > 0
