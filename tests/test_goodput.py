import contextlib
import random
import re
import time

import pytest

from vse_jax import goodput
from vse_jax.goodput import CHECKPOINTS, COMPILATION, EVALUATION, STEPS, Goodput


class Clock:
    """A clock, and the seconds of compilation until now."""

    now, compiled = 1000.0, 7.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def run(clock):
    return Goodput(lambda: clock.now, lambda: clock.compiled, seconds_before=10)


def test_shares_of_a_run(run, clock):
    clock.now += 10  # 20 s of start, of which 4 s of compilation
    clock.compiled += 4
    run.begin(STEPS)
    clock.now += 60  # 10 s of compilation, 5 s of waiting
    clock.compiled += 10
    run.waited(5)
    with run.spent_on(CHECKPOINTS):
        clock.now += 3
        with run.spent_on(EVALUATION):
            clock.now += 12  # 6 s of compilation
            clock.compiled += 6
        clock.now += 1
    clock.now += 4
    assert run.shares() == {
        STEPS: 49,
        goodput.HOST_WAIT: 5,
        COMPILATION: 20,
        EVALUATION: 6,
        CHECKPOINTS: 4,
        goodput.START: 16,
    }
    assert run.line() == (
        "time 0:01:40: steps 49%, waiting for the host 5%, compilation 20%, "
        "evaluation 6%, checkpoints 4%, start-up 16%"
    )


def test_activity_ends_with_an_error(run, clock):
    run.begin(STEPS)
    with contextlib.suppress(OSError), run.spent_on(CHECKPOINTS):
        clock.now += 5
        raise OSError("disk is full")
    clock.now += 5
    shares = run.shares()
    assert (shares[STEPS], shares[CHECKPOINTS], shares[goodput.START]) == (25, 25, 50)


def test_shares_add_up_to_100(run, clock):
    choice = random.Random(0)
    for _ in range(200):
        run.begin(choice.choice(goodput.ACTIVITIES))
        clock.now += choice.random() * 100
        shares = run.shares()
        assert sum(shares.values()) == 100
        assert min(shares.values()) >= 0


def test_run_that_took_no_time():
    shares = Goodput(lambda: 0.0).shares()
    assert sum(shares.values()) == 100


def test_age_of_this_process():
    age = goodput.seconds_since_process_start()
    assert 0 < age < 7 * 24 * 3600
    time.sleep(0.05)
    assert goodput.seconds_since_process_start() > age
    assert re.match(r"time \d+:\d\d:\d\d: steps", Goodput().line())
