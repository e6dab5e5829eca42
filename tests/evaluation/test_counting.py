"""Counts against numpy."""

import numpy as np
import pytest

from vse_jax.evaluation.counting import count_not_below


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 8), (130, 1_000), (2_560, 192)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_counts_are_those_of_numpy(shape, axis):
    rng = np.random.default_rng(0)
    scores = rng.integers(-2, 3, shape).astype(np.float32)
    scores[rng.random(shape) < 0.1] = np.nan
    limits = rng.integers(-2, 3, shape).astype(np.float32).take([0], axis)
    where = rng.random(shape) < 0.9
    expected = (where & ~(scores < limits)).sum(axis)
    found = count_not_below(scores, limits, axis, where)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_8_bits_do_not_overflow(axis):
    scores = np.ones((4_096, 4_096), np.float32)
    np.testing.assert_array_equal(count_not_below(scores, scores, axis), 4_096)


def test_a_limit_of_nan_counts_all():
    scores = np.zeros((2, 3), np.float32)
    limits = np.float32([[np.nan], [1]])
    np.testing.assert_array_equal(count_not_below(scores, limits, 1), [3, 0])
