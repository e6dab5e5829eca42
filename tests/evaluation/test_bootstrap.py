import numpy as np
import pytest

from vse_jax.data import sampling
from vse_jax.evaluation import bootstrap, retrieval
from vse_jax.evaluation.retrieval import Ranks


def drawn_images(resample, images):
    """The images of a resample, one draw at a time."""
    stream = sampling.RESAMPLE_STREAM
    uniform = sampling.random_uniform(0, stream, resample, count=images)[0]
    return [int(u * images) for u in uniform]


def naive(ranks, image_id, caption_image_id, resample):
    """Metrics of the drawn images and all their captions, repeated as drawn."""
    with_caption = [i for i in image_id if i in set(caption_image_id)]
    ids = sorted(set(with_caption))
    of_images, of_captions = [], []
    for number in drawn_images(resample, len(ids)):
        chosen = ids[number]
        of_images += [
            rank
            for rank, i in zip(ranks.image_to_text, with_caption, strict=True)
            if i == chosen
        ]
        of_captions += [
            rank
            for rank, i in zip(ranks.text_to_image, caption_image_id, strict=True)
            if i == chosen
        ]
    return retrieval.recalls(Ranks(np.array(of_images), np.array(of_captions)))


def ragged(seed=0, images=23):
    """Ranks of images with 0 to 4 captions, some of them twice in the split."""
    rng = np.random.default_rng(seed)
    image_id = rng.integers(0, images, images)
    counts = rng.integers(0, 5, images)
    caption_image_id = np.repeat(image_id, counts)
    with_caption = np.isin(image_id, caption_image_id).sum()
    ranks = Ranks(
        rng.geometric(0.2, with_caption) - 1,
        rng.geometric(0.15, len(caption_image_id)) - 1,
    )
    return ranks, image_id, caption_image_id


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_the_drawn_images(seed):
    split = ragged(seed)
    resampled = bootstrap.resampled_metrics(*split)
    for resample in (0, 1, 77, bootstrap.RESAMPLES - 1):
        expected = naive(*split, resample)
        assert resampled.keys() == expected.keys()
        for name, value in expected.items():
            assert resampled[name][resample] == pytest.approx(value), name


def test_intervals_are_percentiles():
    split = ragged()
    resampled = bootstrap.resampled_metrics(*split)
    for name, (low, high) in bootstrap.intervals(*split).items():
        values = np.sort(resampled[name])
        assert np.mean(values < low) <= 0.025 <= np.mean(values <= low)
        assert np.mean(values > high) <= 0.025 <= np.mean(values >= high)


def test_interval_of_independent_queries_is_that_of_the_binomial_distribution():
    images = 2_000
    hits = np.arange(images) < 600
    ranks = Ranks(np.where(hits, 0, 50), np.where(hits, 0, 50))
    ids = np.arange(images), np.arange(images)
    low, high = bootstrap.intervals(ranks, *ids)["i2t_r1"]
    half = 1.96 * 100 * np.sqrt(0.3 * 0.7 / images)
    assert low == pytest.approx(30 - half, abs=0.25)
    assert high == pytest.approx(30 + half, abs=0.25)


def test_captions_of_an_image_are_drawn_together():
    """Five equal captions per image say no more than one: the interval is the same."""
    hits = np.random.default_rng(0).random(400) < 0.4
    ranks = np.where(hits, 0, 20)
    ids = np.arange(400)
    one = bootstrap.intervals(Ranks(ranks, ranks), ids, ids)
    five = bootstrap.intervals(
        Ranks(ranks, np.repeat(ranks, 5)), ids, np.repeat(ids, 5)
    )
    assert one["t2i_r1"] == five["t2i_r1"]


def test_every_image_is_drawn_equally_often():
    counts = bootstrap.times_drawn(np.arange(1000), 20)
    assert counts.shape == (1000, 20)
    assert (counts.sum(1) == 20).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.15)
    assert len({tuple(row) for row in counts.tolist()}) > 990
