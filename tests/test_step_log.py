import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax import parallel, step_log
from vse_jax.errors import TrainingError
from vse_jax.losses import MININGS, triplet_costs
from vse_jax.step_log import CollapseWatch, StepLog


class Writer:
    """Stores the scalars."""

    def __init__(self):
        self.scalars = {}

    def write_scalars(self, step, scalars):
        self.scalars[step] = scalars


def metrics(loss, gradient_norm=1.5):
    values = {
        "loss": loss,
        "hard_share": 0.5,
        "gap": 0.3,
        "gradient_norm": gradient_norm,
    }
    return parallel.replicate({name: np.float32(x) for name, x in values.items()})


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(step_log.time, "perf_counter", lambda: Clock.now)
    return Clock


@pytest.fixture
def run(config, clock):
    config.batch_size = 10
    writer = Writer()
    return StepLog(config, 5, 20, writer, lambda: "go back to step 7"), writer


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "vse_jax.step_log"]


def test_line_shows_progress_of_the_run(run, clock, caplog):
    log, writer = run
    caplog.set_level(logging.INFO, "vse_jax")
    clock.now += 30
    log.add(1, metrics(9.0))
    assert lines(caplog) == ["first step after 30 s, including compilation"]
    for step in (2, 3):
        log.add(step, metrics(step))
        clock.now += 1
    log.report(3)
    assert writer.scalars == {
        3: {
            "loss": pytest.approx((9 + 2 + 3) / 3),
            "hard_share": 0.5,
            "gap": pytest.approx(0.3),
            "gradient_norm": 1.5,
            "pairs_per_second": pytest.approx(10),  # 2 steps of 10 pairs in 2 s
            "host_wait": 0,
        }
    }
    expected = (
        "step 3/20  epoch 0.60  loss 4.6667  hard-mined 50%  10 pairs/s  "
        "host wait 0%  0:00:17 left"
    )
    assert lines(caplog)[-1] == expected


def test_line_shows_a_learned_scale_and_no_mining_that_there_is_not(run, clock, caplog):
    log, writer = run
    caplog.set_level(logging.INFO, "vse_jax")
    values = parallel.unreplicate(metrics(2.0))
    del values["hard_share"]
    log.add(1, parallel.replicate(values | {"scale": np.float32(14.2857)}))
    log.report(1)
    assert "  loss 2.0000  scale 14.29  " in lines(caplog)[-1]
    assert "hard-mined" not in lines(caplog)[-1]
    assert writer.scalars[1]["scale"] == pytest.approx(14.2857)


def test_report_is_of_its_own_interval(run, clock):
    log, writer = run
    for step in range(1, 5):
        log.add(step, metrics(step))
        clock.now += 1
        if step % 2 == 0:
            log.report(step)
    assert writer.scalars[2]["loss"] == 1.5
    assert writer.scalars[4]["loss"] == 3.5
    assert writer.scalars[4]["pairs_per_second"] == pytest.approx(10)


def test_pause_does_not_count(run, clock):
    log, writer = run
    log.add(1, metrics(1))
    clock.now += 1
    log.report(1)
    with log.paused():
        clock.now += 1000
    log.add(2, metrics(1))
    clock.now += 2
    log.report(2)
    assert writer.scalars[2]["pairs_per_second"] == pytest.approx(5)


def test_advice_against_a_collapse_fits_the_loss(config, caplog):
    config.loss.name, config.stuck_steps = "infonce", 1
    CollapseWatch(config).add(1, 4.85, 0.0)
    (line,) = warnings(caplog)
    assert "mining" not in line
    assert "config.optimizer.warmup_epochs=1" in line


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def make_interval(log, clock, steps, waited):
    """Makes steps of one second, of which the devices wait for some part."""
    for step in steps:
        log.waited(waited)
        log.add(step, metrics(1))
        clock.now += 1
    log.report(steps[-1])


def test_wait_for_the_host_is_reported_and_warned_of_once(run, clock, caplog):
    log, writer = run
    log.waited(500)  # for the first batch, before the clock starts
    log.add(1, metrics(1))
    make_interval(log, clock, range(2, 12), waited=0.2)
    assert writer.scalars[11]["host_wait"] == pytest.approx(0.2)
    assert not warnings(caplog)
    make_interval(log, clock, range(12, 22), waited=0.25)
    make_interval(log, clock, range(22, 32), waited=0.5)
    assert writer.scalars[31]["host_wait"] == pytest.approx(0.5)
    (warning,) = warnings(caplog)
    assert warning.startswith(
        "the devices waited for the host in 25% of the time up to step 21; set "
        "config.data.device_resident=True if the features fit"
    )
    assert "\n" not in warning


def test_few_short_steps_are_not_judged(run, clock, caplog):
    log, _ = run
    log.add(1, metrics(1))
    make_interval(log, clock, range(2, 5), waited=0.3)
    assert not warnings(caplog)
    make_interval(log, clock, range(5, 8), waited=0.9)  # 2.7 s
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("model.backbone.name", "resnet50", "prepare smaller photos"),
        ("data.device_resident", True, "more or faster cores"),
    ],
)
def test_advice_fits_the_data(config, clock, caplog, option, value, advice):
    config.update_from_flattened_dict({option: value})
    log = StepLog(config, 5, 20, Writer(), None)
    log.add(1, metrics(1))
    make_interval(log, clock, range(2, 12), waited=1)
    assert advice in warnings(caplog)[0]
    assert "device_resident" not in warnings(caplog)[0]


@pytest.mark.parametrize(
    ("name", "batch_size", "warns"),
    [
        ("triplet", 1, True),
        ("infonce", 1, True),
        ("sigmoid", 1, False),
        ("triplet", 2, False),
        ("infonce", 2, False),
    ],
)
def test_batch_without_negatives_is_warned_of_at_the_start(
    config, caplog, name, batch_size, warns
):
    config.loss.name, config.batch_size = name, batch_size
    StepLog(config, 5, 20, Writer(), None)
    assert len(warnings(caplog)) == warns
    if warns:
        assert f"no negatives: the {name} loss is 0" in warnings(caplog)[0]


def test_devices_are_idle_when_the_last_step_is_done(run):
    log, _ = run
    assert log.is_idle()
    done = metrics(1)
    log.add(1, jax.block_until_ready(done))
    assert log.is_idle()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_ends_the_run(run, loss):
    log, writer = run
    log.add(1, metrics(1))
    log.add(2, metrics(loss))
    with pytest.raises(TrainingError) as error:
        log.report(2)
    message = str(error.value)
    assert f"the loss is {loss} at step 2; go back to step 7" in message
    assert "\n" not in message
    assert not writer.scalars


def test_gradient_that_is_not_finite_ends_the_run(run):
    log, _ = run
    log.add(1, metrics(1.0, gradient_norm=np.nan))
    with pytest.raises(TrainingError, match="gradient norm is nan at step 1"):
        log.report(1)


def test_loss_that_is_not_finite_is_noticed_a_few_steps_later(run):
    log, _ = run
    log.add(1, metrics(float("nan")))
    log.add(2, metrics(1.0))
    with pytest.raises(TrainingError, match="at step 1;"):
        log.add(3, metrics(1.0))


@pytest.fixture
def watch(config, caplog):
    config.stuck_steps = 3
    config.batch_size = 16
    return CollapseWatch(config)


def metrics_of(scores, mining, batch_size=16):
    """Returns the loss and the gap of image anchors with these similarities."""
    own = np.arange(batch_size)
    costs = triplet_costs(
        jnp.float32(scores), own, own[:, None] != own, mining=mining, margin=0.2
    )
    return float(costs.cost.mean()), float(costs.gap.mean())


def similarities(rng, spread, batch_size=16):
    """Draws similarities around 0.9, with positives like the others."""
    return rng.normal(0.9, spread, (batch_size, batch_size))


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("spread", [0, 1e-4])
def test_equal_similarities_are_reported_once(watch, caplog, mining, spread):
    rng = np.random.default_rng(0)
    for step in range(1, 3):
        watch.add(step, *metrics_of(similarities(rng, spread), mining))
    assert not lines(caplog)
    for step in range(3, 10):
        watch.add(step, *metrics_of(similarities(rng, spread), mining))
    (line,) = lines(caplog)
    assert "equal for 3 steps (up to step 3, loss " in line
    assert "config.loss.mining=selective" in line
    assert "\n" not in line


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("learned", [0.0, 1.0])
def test_untrained_and_finished_models_are_no_collapse(watch, caplog, mining, learned):
    """A finished model's loss is 0; an untrained one's may be that of a collapse."""
    rng = np.random.default_rng(0)
    for step in range(1, 10):
        scores = similarities(rng, 0.02) + learned * np.eye(16)
        loss, gap = metrics_of(scores, mining)
        assert loss == 0 if learned else loss > 0
        watch.add(step, loss, gap)
    assert not lines(caplog)


def test_collapse_must_be_uninterrupted(watch, caplog):
    for step, gap in enumerate([0.0, 0.0, 0.1, 0.0, 0.0, 0.0021]):
        watch.add(step, 0.2, gap)
    assert not lines(caplog)


def test_batch_of_one_pair_has_no_gap(config, watch, caplog):
    config.batch_size = 1
    for step in range(1, 10):
        watch.add(step, 0.0, 0.0)
    assert not lines(caplog)
