"""Compares CxC's tasks with dense matrices in NumPy."""

import numpy as np
import pytest
import scipy.stats

from tests.evaluation.coco_stand_in import PER_IMAGE, CocoStandIn
from tests.evaluation.test_retrieval import SCORES
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test, correlation, cxc
from vse_jax.evaluation.embedder import Embeddings

IMAGES = 31


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = CocoStandIn(tmp_path, images=IMAGES)
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    monkeypatch.setattr(correlation, "SAMPLES", 200)
    return stand_in


@pytest.fixture
def suite(stand_in):
    return cxc.CrisscrossedCaptions.read(stand_in.coco, str(stand_in.folder))


def matrix(rows, columns, similarity="cosine"):
    score = SCORES[similarity]
    return np.array([[score(row, column) for column in columns] for row in rows])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def related(judgements, least, shape):
    """Returns a dense relation of the pairs that are judged with at least `least`."""
    first, second, score = judgements
    relation = np.zeros(shape, bool)
    relation[first[score >= least], second[score >= least]] = True
    return relation


def assert_recalls(metrics, task, scores, relation):
    ranks = [
        (row[~mine] >= row[mine].max()).sum()
        for row, mine in zip(scores, relation, strict=True)
        if mine.any()
    ]
    assert metrics[f"{task}_queries"] == len(ranks)
    for k in (1, 5, 10):
        expected = 100 * np.mean(np.array(ranks) < k)
        assert metrics[f"{task}_r{k}"] == pytest.approx(expected)


def within(rows):
    """Cosine similarities of rows, which are not their own candidates."""
    scores = unit(rows) @ unit(rows).T
    np.fill_diagonal(scores, -np.inf)
    return scores


def assert_all_tasks(metrics, stand_in, inter, images, captions):
    """Checks all recalls; `inter` has the scores `[images, captions]`."""
    image = stand_in.coco.image
    sits = related(stand_in.pairs["sits_test.csv"], 3, inter.T.shape)
    assert not sits.any(1).all()  # some captions are no queries
    assert_recalls(metrics, "i2t", inter, sits.T)
    assert_recalls(metrics, "t2i", inter.T, sits)
    sts = related(stand_in.pairs["sts_test.csv"], 3, captions.shape)
    same_image = (image[:, None] == image) & ~np.eye(len(image), dtype=bool)
    assert_recalls(metrics, "t2t", captions, sts | sts.T | same_image)
    sis = related(stand_in.pairs["sis_test.csv"], 2.5, images.shape)
    assert_recalls(metrics, "i2i", images, sis | sis.T)


@pytest.mark.parametrize("name", ["sis_test.csv", "sits_test.csv"])
def test_files_without_right_answers_are_refused(stand_in, name):
    first, second, score = stand_in.pairs[name]
    stand_in.write_csv(name, first, second, np.minimum(score, 2.4))
    with pytest.raises(InputError, match=f"{name}: has no judgement of at least"):
        cxc.CrisscrossedCaptions.read(stand_in.coco, str(stand_in.folder))


@pytest.mark.parametrize("similarity", SCORES)
def test_recalls_are_those_of_dense_matrices(stand_in, suite, similarity):
    embeddings = stand_in.embeddings(unit=similarity == "order")
    metrics = suite.measure(embeddings, similarity)
    inter = matrix(*embeddings, similarity)
    assert_all_tasks(metrics, stand_in, inter, *map(within, embeddings))


def test_similarities_of_models_are_averaged(stand_in, suite):
    models = [stand_in.embeddings(seed=seed) for seed in range(3)]
    stacked = Embeddings(*map(np.stack, zip(*models, strict=True)))
    metrics = suite.measure(stacked, "cosine")
    inter = np.mean([matrix(*model) for model in models], axis=0)
    images, captions = (
        np.mean([within(model[side]) for model in models], axis=0) for side in (0, 1)
    )
    assert_all_tasks(metrics, stand_in, inter, images, captions)


def drawn_correlation(similarity, judgement, queries, samples=200):
    """Draws the correlation by another generator; returns its mean and deviation.

    `queries` has arrays `[pairs]`; each names the query that a pair belongs to.
    """
    rng = np.random.default_rng(0)
    pairs_of = {}
    for of_side in queries:
        for pair, query in enumerate(of_side):
            pairs_of.setdefault(query, []).append(pair)
    drawn = []
    for _ in range(samples):
        chosen = rng.permutation(list(pairs_of))[: len(pairs_of) // 2]
        pairs = [rng.choice(pairs_of[query]) for query in chosen]
        found = scipy.stats.spearmanr(similarity[pairs], judgement[pairs])
        drawn.append(found.statistic)
    return np.mean(drawn), np.std(drawn)


@pytest.mark.parametrize("task", ["sts", "sis", "sits"])
@pytest.mark.parametrize("similarity", SCORES)
def test_correlations_are_those_of_an_independent_draw(
    stand_in, suite, task, similarity
):
    images, captions = embeddings = stand_in.embeddings()
    first, second, score = stand_in.pairs[f"{task}_test.csv"]
    if task == "sits":
        scores = matrix(images, captions, similarity)[second, first]
        queries = [second]
    else:
        rows = captions if task == "sts" else images
        scores = (rows @ rows.T)[first, second]
        queries = [first, second]
    metrics = suite.measure(embeddings, similarity)
    mean, deviation = drawn_correlation(scores, score, queries)
    error = 100 * deviation * np.sqrt(2 / 200)  # of a difference of two means
    assert metrics[task] == pytest.approx(100 * mean, abs=4 * error)
    assert metrics[f"{task}_deviation"] == pytest.approx(100 * deviation, rel=0.3)


def test_captions_alone_have_the_metrics_of_all(stand_in, suite):
    embeddings = stand_in.embeddings()
    alone = cxc.text_text(embeddings.captions, str(stand_in.folder))
    metrics = suite.measure(embeddings, "cosine")
    assert alone.keys() == {
        *(f"t2t_{name}" for name in ("r1", "r5", "r10", "queries")),
        *("sts", "sts_deviation"),
    }
    assert alone == {name: metrics[name] for name in alone}


def test_other_numbers_of_captions_are_refused(stand_in):
    with pytest.raises(InputError, match=r"154 captions or .* expected 155"):
        cxc.text_text(np.ones((154, 4)), str(stand_in.folder))


@pytest.mark.parametrize("shape", [(), (155,), (1, 1, 155, 4)])
def test_other_shapes_of_captions_are_refused(stand_in, shape):
    with pytest.raises(InputError, match=r"have the shape .* \[captions, embed\]"):
        cxc.text_text(np.ones(shape), str(stand_in.folder))


def test_perfect_embeddings_find_the_captions_of_an_image(stand_in):
    directions = np.random.default_rng(0).normal(size=(IMAGES, 8))
    captions = np.repeat(unit(directions), PER_IMAGE, axis=0)
    assert cxc.text_text(captions, str(stand_in.folder))["t2t_r1"] == 100


def test_table_has_what_was_measured(stand_in, suite):
    embeddings = stand_in.embeddings()
    metrics = suite.measure(embeddings, "cosine")
    lines = cxc.format_metrics(metrics).splitlines()
    assert [line[:15].strip() for line in lines] == [
        *("", "image to text", "text to image", "text to text", "image to image"),
        *("", "STS", "SIS", "SITS"),
    ]
    shown = [float(number) for number in lines[3][15:].split()]
    names = ("t2t_r1", "t2t_r5", "t2t_r10", "t2t_queries")
    assert shown == pytest.approx([metrics[name] for name in names], abs=0.05)
    shown = [float(number) for number in lines[6][15:].split()]
    assert shown == pytest.approx([metrics["sts"], metrics["sts_deviation"]], abs=0.05)
    alone = cxc.format_metrics(cxc.text_text(embeddings.captions, str(stand_in.folder)))
    assert len(alone.splitlines()) == 4
