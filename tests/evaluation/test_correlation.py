import numpy as np
import pytest
import scipy.stats

from vse_jax.evaluation import correlation
from vse_jax.evaluation.relevance import Relevance


@pytest.fixture
def judged():
    """Nine queries, of which one has no pair, and the numbers of 40 pairs."""
    rng = np.random.default_rng(0)
    return Relevance.of_pairs(rng.integers(0, 8, 40), np.arange(40), 9)


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_spearman_is_that_of_scipy(levels):
    rng = np.random.default_rng(levels)
    for _ in range(5):
        first, second = rng.integers(0, levels, (2, 200))
        expected = scipy.stats.spearmanr(first, second).statistic
        assert correlation.spearman(first, second) == pytest.approx(expected, abs=1e-12)


def test_equal_values_have_no_correlation():
    assert np.isnan(correlation.spearman(np.zeros(4, int), np.arange(4)))


def test_equal_similarities_of_a_collapsed_model_give_zero(judged):
    """And not NaN, which is no JSON."""
    found = correlation.sampled_spearman(np.ones(40), np.arange(40), judged)
    assert found == (0, 0)


def test_samples_with_nan_count_as_zero(judged):
    """NaN does not rank as the largest similarity, which would correlate."""
    similarity = np.arange(40.0)
    exact = correlation.sampled_spearman(similarity, np.arange(40), judged)
    assert exact == pytest.approx((1, 0))
    similarity[20:] = np.nan
    drawn = [correlation.draw(judged, n) for n in range(correlation.SAMPLES)]
    whole = np.mean([not np.isnan(similarity[pairs]).any() for pairs in drawn])
    found = correlation.sampled_spearman(similarity, np.arange(40), judged)
    assert 0 < whole < 0.2
    assert found.mean == pytest.approx(whole)


def test_half_of_the_queries_are_drawn_with_one_pair_each(judged):
    query_of_pair = np.argsort(judged.candidate)
    query_of_pair = judged.query[query_of_pair]
    counts = np.zeros(40, int)
    for sample in range(2000):
        pairs = correlation.draw(judged, sample)
        queries = query_of_pair[pairs]
        assert len(set(queries.tolist())) == len(queries) == 4
        counts[pairs] += 1
    # Every query in half of the samples, with each of its pairs equally often.
    expected = 1000 / judged.count[query_of_pair]
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected).max()
    np.testing.assert_array_equal(
        correlation.draw(judged, 3), correlation.draw(judged, 3)
    )


def test_result_is_the_mean_of_scipy_over_the_samples(judged, monkeypatch):
    monkeypatch.setattr(correlation, "SAMPLES", 50)
    rng = np.random.default_rng(1)
    judgement = np.round(rng.uniform(0, 5, 40), 1)
    similarity = judgement + rng.normal(0, 1, 40)
    found = correlation.sampled_spearman(similarity, judgement, judged)
    drawn = [correlation.draw(judged, sample) for sample in range(50)]
    expected = [
        scipy.stats.spearmanr(similarity[pairs], judgement[pairs]).statistic
        for pairs in drawn
    ]
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.deviation == pytest.approx(np.std(expected), abs=1e-12)
