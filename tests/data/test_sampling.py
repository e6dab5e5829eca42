"""Tests sampling: passes, captions, straddling batches."""

import collections

import numpy as np
import pytest

from vse_jax.data.sampling import (
    Sampler,
    choose_caption,
    passes_per_epoch,
    random_bits,
    random_uniform,
)
from vse_jax.errors import InputError

_SIZES = [
    (37, 8),
    (37, 19),
    (15, 8),
    (1, 1),
    (2, 1),
    (3, 2),
    (40, 8),
    (100, 33),
    (9, 5),
]


def _rows(sampler, steps):
    all_rows = [sampler.rows(step) for step in range(steps)]
    return all_rows, np.concatenate([rows.image for rows in all_rows])


@pytest.mark.parametrize(("images", "batch_size"), _SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_passes_are_exact_and_batches_repeat_no_image(images, batch_size, seed):
    sampler = Sampler(seed, np.full(images, 5), batch_size)
    passes = 12
    rows, image = _rows(sampler, -(-passes * images // batch_size))
    for one_pass in image[: passes * images].reshape(passes, images):
        assert sorted(one_pass) == list(range(images))
    for batch in rows:
        assert len(set(batch.image)) == batch_size
    numbers = np.concatenate([batch.pass_number for batch in rows])
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)) // images)


@pytest.mark.parametrize(("images", "batch_size"), [(37, 8), (15, 8), (40, 8)])
def test_every_caption_once_per_epoch(images, batch_size):
    sampler = Sampler(0, np.full(images, 5), batch_size)
    rows, image = _rows(sampler, -(-10 * images // batch_size))
    caption = np.concatenate([batch.caption for batch in rows])
    for epoch in range(2):
        span = slice(epoch * 5 * images, (epoch + 1) * 5 * images)
        pairs = set(zip(image[span], caption[span], strict=True))
        assert pairs == {(i, c) for i in range(images) for c in range(5)}


def test_any_number_of_captions():
    counts = np.array([1, 2, 3, 5, 7, 5])
    used = collections.defaultdict(list)
    for pass_number in range(210):
        chosen = choose_caption(3, np.arange(6), np.full(6, pass_number), counts)
        for image, caption in enumerate(chosen.tolist()):
            used[image].append(caption)
    for image, captions in used.items():
        rounds = np.reshape(captions, (-1, counts[image]))
        np.testing.assert_array_equal(
            np.sort(rounds, axis=1), np.tile(np.arange(counts[image]), (len(rounds), 1))
        )
        # Each round draws a new permutation.
        assert counts[image] == 1 or len(np.unique(rounds, axis=0)) > 1


def test_pure_function_of_seed_and_step():
    sampler = Sampler(5, np.full(37, 5), 8)
    forward = [sampler.rows(step) for step in range(60)]
    for step in (59, 3, 41, 4, 0):
        rows = Sampler(5, np.full(37, 5), 8).rows(step)
        np.testing.assert_array_equal(rows.image, forward[step].image)
        np.testing.assert_array_equal(rows.caption, forward[step].caption)
    for step in reversed(range(60)):
        np.testing.assert_array_equal(sampler.rows(step).image, forward[step].image)


def test_seed_and_pass_change_the_order():
    orders = [Sampler(s, np.full(50, 5), 10).order(p) for s in (0, 1) for p in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_orders_are_uniform():
    # Each image is at each position about equally often, straddling or not.
    images, passes = 16, 3000
    sampler = Sampler(0, np.full(images, 1), 6)
    counts = np.zeros((images, images))
    for pass_number in range(passes):
        counts[np.arange(images), sampler.order(pass_number)] += 1
    expected = passes / images
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 225 degrees of freedom: 99.9% lie below 296.
    assert chi_square < 300


@pytest.mark.parametrize(
    ("images", "batch_size", "largest"), [(15, 9, 8), (16, 9, 8), (100, 128, 50)]
)
def test_refuses_a_batch_that_is_too_large(images, batch_size, largest):
    with pytest.raises(
        InputError, match=f"config.batch_size is {batch_size} .* 1 to {largest},"
    ):
        Sampler(0, np.full(images, 5), batch_size)
    Sampler(0, np.full(images, 5), largest)


def test_passes_per_epoch():
    assert passes_per_epoch(np.full(7, 5)) == 5
    assert passes_per_epoch(np.array([5, 5, 5, 6])) == 5
    assert passes_per_epoch(np.array([1])) == 1


def test_random_bits_are_splitmix64():
    # The first outputs for state 0 of the reference implementation, which the last
    # stage yields if the keys mix to a known state: compute it here bit by bit.
    mask = (1 << 64) - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    assert mix(golden) == 0xE220A8397B1DCDAF
    state = mix((mix(golden + 7 & mask) + golden + -3) & mask)
    expected = [mix((state + golden * i) & mask) for i in range(1, 6)]
    assert random_bits(7, -3, count=5)[0].tolist() == expected


def test_random_numbers_of_a_batch_equal_those_of_its_rows():
    images, passes = np.array([3, 9, 3]), np.array([0, 0, 1])
    batch = random_uniform(1, images, passes, count=4)
    for row, image, pass_number in zip(batch, images, passes, strict=True):
        alone = random_uniform(1, image, pass_number, count=6)[0, :4]
        np.testing.assert_array_equal(row, alone)
    assert len(np.unique(batch)) == batch.size


def test_random_numbers_are_uniform():
    values = random_uniform(0, np.arange(2000), count=50)
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    histogram = np.histogram(values, 100)[0]
    assert ((histogram - 1000) ** 2 / 1000).sum() < 150  # 99 degrees of freedom
    correlation = np.corrcoef(values.T) - np.eye(50)
    assert abs(correlation).max() < 0.1
