import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parity
from vse_jax.losses import MININGS, triplet_costs

MARGIN, EPSILON = 0.2, 0.15


@pytest.fixture(scope="module")
def problem():
    """Anchors of one of several devices; some have duplicates, one has no negatives."""
    rng = np.random.default_rng(1)
    scores = rng.uniform(-0.5, 0.5, (8, 14))
    own = np.arange(8) + 3
    candidate_image = np.array([0, 1, 2, 3, 4, 5, 6, 3, 8, 9, 10, 5, 12, 13])
    is_negative = candidate_image[own][:, None] != candidate_image
    is_negative[6] = False  # an anchor without any negative
    # In two anchors, the positive is close to the hardest negative; in one, it is far
    # above.
    for anchor, offset in ((0, 0.01), (1, -0.02), (2, 0.4)):
        hardest = scores[anchor][is_negative[anchor]].max()
        scores[anchor, own[anchor]] = hardest + offset
    scores[3, own[3]] = -1.0  # below all negatives: none is semi-hard
    # Below its duplicate, which must not count as a negative.
    scores[4, 3], scores[4, own[4]] = 0.9, 0.3
    return scores.astype(np.float32), own, is_negative


def naive_costs(scores, own, is_negative, mining):
    """Loops over anchors and candidates; returns costs, and which were mined hard."""
    costs, hard = [], []
    for i, row in enumerate(scores):
        positive = row[own[i]]
        negatives = [s for j, s in enumerate(row) if is_negative[i, j]]
        hinges = [max(0.0, MARGIN + negative - positive) for negative in negatives]
        cost, is_hard = 0.0, False
        if mining in ("all", "mean") and negatives:
            cost = sum(hinges) / (1 if mining == "all" else len(negatives))
        if mining == "hardest":
            cost, is_hard = max(hinges, default=0.0), True
        if mining == "semi_hard":
            easier = [s for s in negatives if s < positive]
            is_hard = bool(easier)
            cost = max(0.0, MARGIN + max(easier) - positive) if easier else 0.0
        if mining == "selective":
            is_hard = not negatives or abs(positive - max(negatives)) >= EPSILON
            mean = sum(hinges) / max(1, len(negatives))
            cost = max(hinges, default=0.0) if is_hard else mean
        costs.append(cost)
        hard.append(is_hard)
    return np.array(costs), np.array(hard)


def ours(scores, own, is_negative, mining, epsilon=EPSILON):
    return triplet_costs(
        jnp.asarray(scores, jnp.float32),
        jnp.asarray(own),
        jnp.asarray(is_negative),
        mining=mining,
        margin=MARGIN,
        epsilon=epsilon,
    )


def gradient(scores, own, is_negative, mining):
    def total(scores):
        return ours(scores, own, is_negative, mining).cost.sum()

    return np.asarray(jax.grad(total)(jnp.asarray(scores)))


@pytest.mark.parametrize("mining", MININGS)
def test_costs_are_those_of_a_double_loop(problem, mining):
    expected, is_hard = naive_costs(*problem, mining)
    costs = ours(*problem, mining)
    np.testing.assert_allclose(costs.cost, expected, atol=1e-6)
    np.testing.assert_array_equal(costs.is_hard, is_hard)


def test_minings_differ_on_the_problem(problem):
    costs = {mining: ours(*problem, mining).cost.tolist() for mining in MININGS}
    assert len(set(map(tuple, costs.values()))) == len(MININGS)


@pytest.mark.parametrize("mining", MININGS)
def test_gradient_is_that_of_finite_differences(problem, mining):
    scores, own, is_negative = problem
    step = 1e-6
    expected = np.zeros(scores.shape)
    for place in np.ndindex(scores.shape):
        shift = np.zeros(scores.shape)
        shift[place] = step
        above, _ = naive_costs(scores + shift, own, is_negative, mining)
        below, _ = naive_costs(scores - shift, own, is_negative, mining)
        expected[place] = (above.sum() - below.sum()) / (2 * step)
    np.testing.assert_allclose(gradient(*problem, mining), expected, atol=1e-5)


def test_reports_positive_hardest_and_gap(problem):
    scores, own, is_negative = problem
    costs = ours(*problem, "selective")
    hardest = np.where(is_negative, scores, -np.inf).max(1)
    np.testing.assert_array_equal(costs.positive, scores[np.arange(8), own])
    np.testing.assert_array_equal(costs.hardest, hardest)
    np.testing.assert_allclose(costs.gap, np.abs(costs.positive - hardest))


@pytest.mark.parametrize("mining", MININGS)
def test_duplicates_are_no_negatives(problem, mining):
    scores, own, is_negative = problem
    duplicates = ~is_negative
    duplicates[np.arange(8), own] = False
    assert duplicates.any()
    higher = np.where(duplicates, 5.0, scores)  # would be the hardest negatives
    np.testing.assert_array_equal(
        ours(higher, own, is_negative, mining).cost, ours(*problem, mining).cost
    )
    assert not gradient(higher, own, is_negative, mining)[duplicates].any()


@pytest.mark.parametrize("mining", MININGS)
def test_anchor_without_negative_costs_nothing(mining):
    scores = np.array([[0.3, 0.9], [0.1, 0.2]], np.float32)
    arguments = (scores, np.arange(2), np.zeros((2, 2), bool), mining)
    np.testing.assert_array_equal(ours(*arguments).cost, 0)
    np.testing.assert_array_equal(gradient(*arguments), 0)


def test_hardest_gives_the_gradient_to_one_of_equal_negatives():
    scores = np.array([[0.5, 0.4, 0.4, 0.4]], np.float32)
    is_negative = np.array([[False, True, True, True]])
    found = gradient(scores, np.zeros(1, int), is_negative, "hardest")
    assert sorted(found[0].tolist()) == [-1, 0, 0, 1]


def test_selective_has_no_gradient_through_the_gap():
    """At a gap just below epsilon, the choice of the mean has no gradient."""
    scores = np.array([[0.5, 0.45, 0.1]], np.float32)
    is_negative = np.array([[False, True, True]])
    found = gradient(scores, np.zeros(1, int), is_negative, "selective")
    np.testing.assert_allclose(found, [[-0.5, 0.5, 0]], atol=1e-6)


def test_selective_with_extreme_epsilon_is_hardest_or_mean(problem):
    for epsilon, mining in ((0.0, "hardest"), (10.0, "mean")):
        scores, own, is_negative = (array[:6] for array in problem)
        np.testing.assert_allclose(
            ours(scores, own, is_negative, "selective", epsilon).cost,
            ours(scores, own, is_negative, mining).cost,
        )


def test_unknown_mining_is_refused(problem):
    with pytest.raises(ValueError, match="'easiest'"):
        ours(*problem, "easiest")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mining", MININGS)
def test_loss_of_equal_similarities(mining, reduction):
    """Only `semi_hard` has nothing to mine: no negative is below the positive."""
    embeddings = np.tile(np.float32([0.6, 0.8]), (7, 1))
    settings = parity.loss_settings(margin=0.3, reduction=reduction)
    loss = parity.batch_loss(embeddings, embeddings, settings, mining)
    each = {"all": 6 * 0.3, "semi_hard": 0.0}.get(mining, 0.3)
    expected = each if reduction == "mean" else 2 * 7 * each
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def golden_losses():
    """Returns the golden file and the names of its losses."""
    golden = parity.load("losses")
    names = [name.removeprefix("out/") for name in golden if name.startswith("out/")]
    return golden, names


def meaning(name):
    if name.startswith("selhn_eps"):
        epsilon = float(name.removeprefix("selhn_eps"))
        return "selective", parity.loss_settings(epsilon=epsilon)
    similarity, kind = name.split("_")
    settings = parity.loss_settings(similarity=similarity, reduction="sum")
    return {"sum": "all", "max": "hardest"}[kind], settings


def test_parity_of_losses_and_gradients():
    golden, names = golden_losses()
    assert names
    for name in names:
        mining, settings = meaning(name)

        def loss(images, captions, mining=mining, settings=settings):
            if settings.similarity == "order":
                images, captions = jnp.abs(images), jnp.abs(captions)
            return parity.batch_loss(images, captions, settings, mining)

        embeddings = golden["in/image_emb"], golden["in/caption_emb"]
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*embeddings)
        close = {"rtol": 1e-5, "atol": 1e-5, "err_msg": name}
        np.testing.assert_allclose(value, golden[f"out/{name}"], **close)
        for found, of in zip(gradients, ("image", "caption"), strict=True):
            np.testing.assert_allclose(found, golden[f"grad/{name}.{of}"], **close)
