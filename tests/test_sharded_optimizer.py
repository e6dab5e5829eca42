import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from tests import parity
from tests.test_train_step import VOCABULARY, make_batch
from vse_jax import parallel, parameter_groups, sharded_optimizer
from vse_jax.models.vse import VSE
from vse_jax.optimizer import create_optimizer
from vse_jax.state_placement import StatePlacement
from vse_jax.train_step import TrainState, create_train_state, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

SHAPES = {
    "kernel": (5, 3),
    "bias": (7,),
    "factor": (),
    "convolution": (1, 1, 4, 16),
    "frozen": {"kernel": (4, 9)},
}
GROUPS = (
    common.parameter_group("bias", learning_rate=0.3, weight_decay=0.0),
    common.parameter_group("frozen/.*", frozen=True),
)


def optimizers(groups=GROUPS, clip=2.0):
    """Returns the optimizer of whole arrays and the one of parts."""
    settings = common.get_config().optimizer
    settings.gradient_clip = clip
    schedule = optax.piecewise_constant_schedule(0.01, {7: 0.1})
    whole = create_optimizer(settings, schedule, groups)
    settings.sharded = True
    return whole, create_optimizer(settings, schedule, groups)


def draw(generator, devices=()):
    return jax.tree.map(
        lambda shape: generator.normal(size=(*devices, *shape)).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def start(optimizer):
    params = draw(np.random.default_rng(0))
    return TrainState(np.int32(0), params, {}, optimizer.init(params))


def whole_step(optimizer, state, gradients):
    gradients = parallel.sum_over_devices(gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(params=params, opt_state=opt_state)


def step_of_parts(groups, optimizer, state, gradients):
    frozen = parameter_groups.frozen(groups, state.params)
    params, opt_state, _ = sharded_optimizer.update(
        optimizer, gradients, state.opt_state, state.params, frozen
    )
    return state.replace(params=params, opt_state=opt_state)


def train(step, optimizer, placement, state, steps, backend="pmap"):
    """Makes steps with random gradients that differ between the devices."""
    mapped = parallel.map_over_devices(
        functools.partial(step, optimizer),
        (placement.specs, parallel.SPLIT),
        placement.specs,
        backend=backend,
    )
    state = placement.put(state)
    for number in steps:
        gradients = draw(np.random.default_rng(number), devices=(8,))
        frozen = np.zeros_like(gradients["frozen"]["kernel"])
        state = mapped(state, gradients | {"frozen": {"kernel": frozen}})
    return placement.fetch(state)


def train_whole(steps, state=None, **kwargs):
    optimizer, _ = optimizers(**kwargs)
    placement = StatePlacement(optimizer, sharded=False)
    return train(whole_step, optimizer, placement, state or start(optimizer), steps)


def train_parts(steps, state=None, backend="pmap", **kwargs):
    _, optimizer = optimizers(**kwargs)
    step = functools.partial(step_of_parts, kwargs.get("groups", GROUPS))
    placement = StatePlacement(optimizer, sharded=True)
    state = state or start(optimizer)
    return train(step, optimizer, placement, state, steps, backend)


def assert_same(found, expected, rtol):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol),
        found,
        expected,
    )
    shapes = [jax.tree.map(np.shape, tree) for tree in (found, expected)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("backend", parallel.BACKENDS)
def test_twenty_steps_are_those_of_the_whole_optimizer(backend):
    """So is the state on the host, with groups, clipping and a frozen parameter."""
    expected = train_whole(range(20))
    found = train_parts(range(20), backend=backend)
    assert_same(found, expected, rtol=1e-6)
    before = start(optimizers()[0]).params
    np.testing.assert_array_equal(
        found.params["frozen"]["kernel"], before["frozen"]["kernel"]
    )
    assert np.abs(found.params["factor"] - before["factor"]) > 1e-3


def largest_moment(state):
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    return max(
        np.abs(x).max() for path, x in leaves if ".mu" in jax.tree_util.keystr(path)
    )


def test_clipping_takes_the_norm_over_all_devices():
    clipped, free = (train_parts(range(1), clip=clip) for clip in (1e-3, 0.0))
    assert largest_moment(clipped) < largest_moment(free) / 100
    assert_same(clipped, train_whole(range(1), clip=1e-3), rtol=1e-6)


def test_run_is_resumed_with_the_option_on_or_off():
    expected = train_whole(range(6))
    halfway = {"whole": train_whole(range(3)), "parts": train_parts(range(3))}
    found = train_parts(range(3, 6), halfway["whole"])
    assert_same(found, expected, rtol=1e-6)
    found = train_whole(range(3, 6), halfway["parts"])
    assert_same(found, expected, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 3, 8, 64])
def test_state_is_the_same_after_a_split_over_any_number_of_devices(devices):
    optimizer, _ = optimizers()
    state = jax.tree.map(np.asarray, train_whole(range(2)))
    parts = sharded_optimizer.split_state(
        optimizer, state.opt_state, state.params, devices
    )
    assert {x.shape[0] for x in jax.tree.leaves(parts)} == {devices}
    joined = sharded_optimizer.join_state(optimizer, parts, state.params)
    assert_same(joined, state.opt_state, rtol=0)


def test_each_device_has_its_part_of_the_state():
    params = {"kernel": np.zeros((300, 1024), np.float32)}
    optimizer, _ = optimizers(groups=())
    state = TrainState(np.int32(0), params, {}, optimizer.init(params))
    sizes = {}
    for sharded in (False, True):
        placed = StatePlacement(optimizer, sharded=sharded)
        mapped = parallel.map_over_devices(
            lambda state, rows: state, (placed.specs, parallel.SPLIT), placed.specs
        )
        rows = jax.ShapeDtypeStruct((8, 1), jnp.float32)
        compiled = mapped.lower(placed.shapes(state, 8), rows).compile()
        sizes[sharded] = compiled.memory_analysis().argument_size_in_bytes
    kernel = params["kernel"].nbytes
    assert sizes[False] == pytest.approx(3 * kernel, rel=0.01)
    assert sizes[True] == pytest.approx((1 + 2 / 8) * kernel, rel=0.01)


def test_training_step_is_that_of_the_whole_optimizer():
    model = VSE("global", "gru", VOCABULARY, word_dim=3, embed_dim=8, train=True)
    groups = (common.parameter_group("text/words/.*", frozen=True),)
    batch, schedule = make_batch(), optax.constant_schedule(5e-4)
    found = []
    for sharded, optimizer in enumerate(optimizers(groups)):
        state = create_train_state(model, optimizer, batch, seed=0)
        placement = StatePlacement(optimizer, sharded=bool(sharded))
        step = parallel.map_over_devices(
            make_train_step(
                model.clone(gather_over_devices=parallel.gather),
                optimizer,
                schedule,
                parity.loss_settings(),
                "mean",
                groups,
                sharded=bool(sharded),
            ),
            (placement.specs, parallel.SPLIT),
            (placement.specs, parallel.REPLICATED),
            donate_argnums=0,
        )
        after, metrics = step(placement.put(state), parallel.shard(batch))
        found.append((placement.fetch(after), parallel.unreplicate(metrics)))
    assert found[0][1]["gradient_norm"] > found[0][1]["gradient_norm_text"] > 1e-3
    assert_same(found[1], found[0], rtol=1e-6)
