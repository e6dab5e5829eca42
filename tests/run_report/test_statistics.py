import numpy as np
import pytest
import scipy.stats

from vse_jax.run_report import statistics


def bounds(label):
    """The lowest and highest number of a bin's label."""
    low, _, high = label.replace(",", "").partition("\u2013")
    return int(low), int(high or low)


@pytest.mark.parametrize("candidates", [1, 2, 7, 10, 11, 5_000, 100_000])
def test_bins_of_ranks_hold_every_rank_once(candidates):
    ranks = np.random.default_rng(0).integers(0, candidates, 500)
    ranks = np.append(ranks, [0, candidates - 1])
    previous = 0
    for label, count in statistics.rank_histogram(ranks, candidates):
        low, high = bounds(label)
        assert low == previous + 1
        assert count == sum(low <= rank + 1 <= high for rank in ranks)
        previous = high
    assert previous == candidates


def test_recall_curve_is_the_recall_at_each_k():
    ranks = np.random.default_rng(0).geometric(0.05, 300) - 1
    curve = dict(statistics.recall_curve(ranks))
    assert min(curve) == 1
    assert {5, 10, 100} <= curve.keys()
    for k, recall in curve.items():
        assert recall == pytest.approx(100 * sum(rank < k for rank in ranks) / 300)


def test_histograms_have_the_same_bins_and_sum_to_a_hundred():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=100), rng.normal(3, 2, size=57).astype(np.float32)]
    edges, shares = statistics.shared_histogram(values)
    assert edges[0] == pytest.approx(min(v.min() for v in values))
    assert edges[-1] == pytest.approx(max(v.max() for v in values))
    for array, share in zip(values, shares, strict=True):
        assert share.sum() == pytest.approx(100)
        fullest = share.argmax()
        inside = np.mean((array >= edges[fullest]) & (array < edges[fullest + 1]))
        assert share[fullest] == pytest.approx(100 * inside)


def test_histogram_of_equal_values():
    edges, (share, empty) = statistics.shared_histogram([np.ones(4), np.ones(0)])
    assert np.all(np.diff(edges) > 0)
    assert share.sum() == pytest.approx(100)
    assert empty.sum() == 0


@pytest.mark.parametrize("counts", [[0, 0, 0], [5], [0, 1, 1, 2, 3, 4, 9, 40], [7, 8]])
def test_bins_of_hubs_hold_every_image_once(counts):
    bins = statistics.hub_histogram(np.array(counts))
    assert sum(count for _, count in bins) == len(counts)
    for label, count in bins:
        low, high = bounds(label)
        assert count == sum(low <= each <= high for each in counts)
    assert bins[0].count > 0


def test_skewness_is_that_of_scipy():
    counts = np.random.default_rng(0).geometric(0.1, 200)
    assert statistics.skewness(counts) == pytest.approx(scipy.stats.skew(counts))
    assert statistics.skewness(np.full(5, 3)) == 0


def test_recalls_of_groups():
    rng = np.random.default_rng(0)
    ranks, group = rng.integers(0, 20, 200), rng.integers(-1, 3, 200)
    groups = statistics.recalls_by_group(ranks, group, ["a", "b", "c", "nothing"])
    assert [each.label for each in groups] == ["a", "b", "c"]
    for number, each in enumerate(groups):
        members = [r for r, g in zip(ranks, group, strict=True) if g == number]
        assert each.captions == len(members)
        expected = [
            100 * sum(r < k for r in members) / len(members) for k in (1, 5, 10)
        ]
        assert each.recalls == pytest.approx(expected)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_groups_of_quantiles_are_ranges_without_overlap(number):
    values = np.random.default_rng(0).poisson(10, 1_000)
    group, ranges = statistics.quantile_groups(values, number)
    assert 1 <= len(ranges) <= number
    for value, of in zip(values, group, strict=True):
        low, high = ranges[of]
        assert low <= value <= high
    flat = [bound for each in ranges for bound in each]
    assert flat == sorted(flat)
    assert np.bincount(group).max() < 1_000 / number + 150  # a value is not divided


def test_equal_values_are_one_group():
    group, ranges = statistics.quantile_groups(np.full(9, 4), 5)
    assert ranges == [(4, 4)]
    assert not group.any()


def test_chosen_queries_are_the_extremes_of_different_images():
    ranks = np.array([0, 0, 3, 0, 7, 7, 2, 1])
    margin = np.array([0.1, 0.5, -0.2, 0.3, -0.4, -0.6, -0.1, -0.1])
    image = np.array([0, 1, 2, 1, 3, 4, 4, 5])
    choice = statistics.choose_queries(ranks, margin, image, 2)
    assert choice.best.tolist() == [1, 0]  # query 3 has the image of query 1
    assert choice.worst.tolist() == [5, 4]
    order = [1, 3, 0, 7, 6, 2, 4, 5]  # the best first
    assert choice.median[0] == order[4]
    assert len({int(image[q]) for q in choice.median}) == 2


def test_fewer_images_than_queries():
    choice = statistics.choose_queries(np.zeros(3, int), np.zeros(3), np.zeros(3), 4)
    assert [len(some) for some in choice] == [1, 1, 1]


def test_deviation_is_that_of_a_sample():
    mean, deviation = statistics.mean_and_deviation([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert deviation == pytest.approx(np.sqrt(7 / 3))


@pytest.mark.parametrize("length", [0, 1, 300, 301, 1_000])
def test_thinned_curve_keeps_the_mean_and_the_last_step(length):
    curve = [(step, float(step**2)) for step in range(1, length + 1)]
    thinned = statistics.thinned(curve)
    assert len(thinned) <= 300
    if length <= 300:
        assert thinned == curve
    else:
        size = -(-length // 300)
        first = np.mean([value for _, value in curve[:size]])
        assert thinned[0] == (size, pytest.approx(first))
        assert thinned[-1][0] == length
