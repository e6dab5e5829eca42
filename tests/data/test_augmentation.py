"""Tests rates and order of the size augmentation, and that something is kept."""

import numpy as np
import pytest

from vse_jax.data.augmentation import corrupt_words, keep_regions
from vse_jax.data.text.vocabulary import Vocabulary

_VOCABULARY = Vocabulary([f"word{i}" for i in range(1000)])
_FIRST = 5000  # first token of a caption; never drawn as a random word


def _keep(images=2000, regions=36, count=36, rate=0.2, seed=0, pass_number=0):
    image = np.arange(images)
    counts = np.broadcast_to(count, images)
    passes = np.full(images, pass_number)
    return keep_regions(seed, passes, image, counts, regions, rate)


def _corrupt(tokens, count, rate=0.2, pass_number=0, images=None):
    image = np.arange(len(tokens)) if images is None else images
    passes = np.full(len(tokens), pass_number)
    return corrupt_words(0, passes, image, tokens, count, _VOCABULARY, rate)


def _captions(images, time, count):
    """Returns captions whose token at position i is _FIRST + i."""
    place = np.arange(time)
    tokens = np.where(place < count, _FIRST + place, 0).astype(np.int32)
    return np.tile(tokens, (images, 1)), np.full(images, count, np.int32)


def test_regions_are_dropped_at_the_rate():
    source, count = _keep()
    # 72,000 draws: five standard deviations are 0.0075.
    assert abs(1 - count.mean() / 36 - 0.2) < 0.0075
    kept = np.zeros((2000, 36), bool)
    for row, places, number in zip(kept, source, count, strict=True):
        row[places[:number]] = True
    assert abs(kept.mean(axis=0) - 0.8).max() < 5 * 0.4 / 2000**0.5


def test_kept_regions_stay_in_order_and_come_first():
    source, count = _keep(images=200, count=np.arange(200) % 36 + 1)
    for image, (places, number) in enumerate(zip(source, count, strict=True)):
        kept = places[:number]
        assert (np.diff(kept) > 0).all()
        assert kept.max() <= image % 36
        assert sorted(places) == list(range(36))


@pytest.mark.parametrize("rate", [0.9, 1.0])
def test_never_drops_all_regions(rate):
    source, count = _keep(count=np.arange(2000) % 3 + 1, rate=rate)
    assert count.min() == 1
    assert (source[:, 0] <= np.arange(2000) % 3).all()
    # The kept region varies.
    assert set(source[2::3, 0]) == {0, 1, 2}


def test_no_regions_dropped_at_rate_zero():
    source, count = _keep(images=4, count=30, rate=0.0)
    np.testing.assert_array_equal(count, 30)
    np.testing.assert_array_equal(source, np.tile(np.arange(36), (4, 1)))


def test_regions_depend_only_on_seed_pass_and_image():
    source, _ = _keep(images=50)
    again, _ = keep_regions(
        0, np.zeros(2, int), np.array([31, 7]), np.full(2, 36), 36, 0.2
    )
    np.testing.assert_array_equal(again, source[[31, 7]])
    for other in (_keep(images=50, seed=1), _keep(images=50, pass_number=1)):
        assert (other[0] != source).any(axis=1).mean() > 0.9


def test_words_are_changed_at_the_rates():
    images, time = 8000, 20
    tokens, count = _captions(images, time, time)
    changed, left = _corrupt(tokens, count)
    total = images * time
    masked = (changed == _VOCABULARY.mask).sum() / total
    original = (changed >= _FIRST).sum() / total
    dropped = 1 - left.sum() / total
    # 160,000 draws: five standard deviations of the most frequent are 0.005.
    assert abs(original - 0.8) < 0.005
    assert abs(masked - 0.1) < 0.004
    assert abs(dropped - 0.08) < 0.0035


def test_random_words_are_ordinary_words():
    tokens, count = np.full((5000, 20), 2, np.int32), np.full(5000, 20, np.int32)
    changed, _ = _corrupt(tokens, count)
    random = changed[(changed > 2) & (changed < _VOCABULARY.mask)]
    assert abs(len(random) / 100000 - 0.02) < 0.003
    assert random.min() >= _VOCABULARY.first_word
    assert random.min() < 30
    assert random.max() > _VOCABULARY.mask - 30


def test_start_and_end_are_changed_too():
    tokens, count = _captions(5000, 8, 8)
    changed, left = _corrupt(tokens, count)
    last = changed[np.arange(5000), left - 1]
    for share in ((changed[:, 0] != _FIRST).mean(), (last != _FIRST + 7).mean()):
        assert abs(share - 0.2) < 0.03


def test_kept_words_stay_in_order_and_padding_follows():
    tokens, count = _captions(500, 12, 9)
    changed, left = _corrupt(tokens, count, rate=0.5)
    assert left.min() < 9
    for row, number in zip(changed, left, strict=True):
        assert (row[:number] > 0).all()
        assert (row[number:] == 0).all()
        assert (np.diff(row[row >= _FIRST]) > 0).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_never_drops_all_words(count):
    tokens, counts = _captions(3000, 5, count)
    changed, left = _corrupt(tokens, counts, rate=1.0)
    assert left.min() == 1
    assert (changed[:, 0] > 0).all()


def test_nothing_changed_at_rate_zero():
    tokens, count = _captions(10, 12, 9)
    changed, left = _corrupt(tokens, count, rate=0.0)
    np.testing.assert_array_equal(changed, tokens)
    np.testing.assert_array_equal(left, count)


def test_words_do_not_depend_on_the_padding_or_on_the_batch():
    tokens, count = _captions(50, 12, 9)
    changed, left = _corrupt(tokens, count)
    wide = np.pad(tokens[[31, 7]], ((0, 0), (0, 20)))
    again, left_again = _corrupt(wide, count[:2], images=np.array([31, 7]))
    np.testing.assert_array_equal(again[:, :12], changed[[31, 7]])
    np.testing.assert_array_equal(left_again, left[[31, 7]])
    other, _ = _corrupt(tokens, count, pass_number=1)
    assert (other != changed).any(axis=1).mean() > 0.8
