import threading
import time

import pytest

from vse_jax.feed import Feed

SECONDS = 0.15


def slow_batches(count, seconds):
    for number in range(count):
        time.sleep(seconds)
        yield number


def make_feed(batches, is_idle=lambda: True, put=lambda batch: [batch]):
    return Feed(batches, put, is_idle)


def test_batches_are_put_in_order():
    with make_feed(slow_batches(5, 0)) as feed:
        assert [batch for batch, _ in feed] == [[0], [1], [2], [3], [4]]


def test_next_batch_is_put_while_a_step_runs():
    put = []

    def note(batch):
        put.append(batch)
        return batch

    with make_feed(slow_batches(3, 0), put=note) as feed:
        for batch, _ in feed:
            time.sleep(SECONDS)
            assert len(put) == min(batch + 2, 3)  # this one and the next, no more


def test_idle_devices_wait_for_a_slow_host():
    with make_feed(slow_batches(3, SECONDS)) as feed:
        waits = [waited for _, waited in feed]
    assert len(waits) == 3
    assert min(waits) > SECONDS / 2


def test_busy_devices_do_not_wait():
    with make_feed(slow_batches(3, SECONDS), is_idle=lambda: False) as feed:
        assert [waited for _, waited in feed] == [0, 0, 0]


def test_only_the_time_after_the_last_step_counts():
    """The step ends in the middle of the time that the host takes for a batch."""
    started = time.perf_counter()
    ends = started + 2 * SECONDS
    with make_feed(
        slow_batches(1, 4 * SECONDS), is_idle=lambda: time.perf_counter() > ends
    ) as feed:
        ((_, waited),) = feed
    assert SECONDS < waited < time.perf_counter() - started - SECONDS


def test_error_of_the_host_is_raised():
    def failing():
        yield 0
        raise ValueError("record 7")

    with make_feed(failing()) as feed, pytest.raises(ValueError, match="record 7"):
        list(feed)


def test_closing_ends_the_thread_and_the_batches():
    batches = slow_batches(1000, 0)
    threads = threading.active_count()
    with make_feed(batches) as feed:
        next(iter(feed))
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert next(batches, None) is None
