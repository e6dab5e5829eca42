"""Compares ECCV Caption and CxC with the package eccv-caption."""

import json

import numpy as np
import pytest

from tests.evaluation.coco_stand_in import CocoStandIn
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test, eccv
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.relevance import Relevance
from vse_jax.evaluation.relevant_ranks import rank_relevant


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = CocoStandIn(tmp_path, images=23)
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    return stand_in


def naive(scores, queries, candidates, right_answers):
    """Computes mAP@R, R-Precision and R@1 from lists of candidates, in percent."""
    values = []
    for query, right in right_answers.items():
        row = scores[queries.index(query)]
        order = sorted(range(len(row)), key=lambda c: -row[c])
        found = [candidates[c] in right for c in order[: len(right)]]
        found += [False] * (len(right) - len(found))
        precision = np.cumsum(found) / (1 + np.arange(len(right)))
        values.append([np.mean(precision * found), np.mean(found), found[0]])
    return 100 * np.mean(values, axis=0)


def test_metrics_are_those_of_lists(stand_in):
    suite = eccv.EccvCaption.read(stand_in.coco)
    images, captions = embeddings = stand_in.embeddings()
    metrics = suite.measure(embeddings, "cosine")
    ids = stand_in.coco.image_id.tolist(), stand_in.coco.caption_id.tolist()
    scores = images @ captions.T
    names = "map_at_r", "rprecision", "r1"
    for task, matrix, sides in (("i2t", scores, ids), ("t2i", scores.T, ids[::-1])):
        expected = naive(matrix, *sides, stand_in.right_answers[task])
        found = [metrics[f"{task}_{name}"] for name in names]
        assert found == pytest.approx(expected)
        assert metrics[f"{task}_queries"] == len(stand_in.right_answers[task])
    lines = eccv.format_metrics(metrics).splitlines()
    shown = [float(number) for number in lines[1][15:].split()]
    expected = [metrics[f"i2t_{name}"] for name in (*names, "queries")]
    assert shown == pytest.approx(expected, abs=0.05)


def test_ties_count_against_the_model(stand_in):
    suite = eccv.EccvCaption.read(stand_in.coco)
    collapsed = Embeddings(*map(np.ones_like, stand_in.embeddings()))
    metrics = suite.measure(collapsed, "cosine")
    assert metrics["i2t_map_at_r"] == metrics["t2i_r1"] == 0


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ({"12345": [100]}, "has 12345, which is none of COCO's test split"),
        ({"0": [12345]}, "has no right answer for 0 in COCO's test split"),
        ({"0": []}, "has no right answer for 0 in COCO's test split"),
    ],
    ids=str,
)
def test_ground_truth_of_other_images_is_refused(stand_in, relation, expected):
    (stand_in.folder / "eccv_image_to_caption.json").write_text(json.dumps(relation))
    match = rf"eccv_image_to_caption\.json: {expected}; pip install .*--force-reinstall"
    with pytest.raises(InputError, match=match):
        eccv.EccvCaption.read(stand_in.coco)


def whole_embeddings(coco, dim=32, largest=500):
    """Draws whole numbers, whose products are exact, and captions near their images."""
    rng = np.random.default_rng(0)
    images = rng.integers(-largest, largest + 1, (len(coco.image_id), dim))
    noise = rng.integers(-largest, largest + 1, (len(coco.image), dim))
    captions = (images[coco.image] + noise) // 2
    return Embeddings(images.astype(np.float32), captions.astype(np.float32))


def best(scores, candidates, number):
    """Returns the best candidates of each row in order."""
    columns = np.argpartition(-scores, number, axis=1)[:, :number]
    taken = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-taken, axis=1)
    return candidates[np.take_along_axis(columns, order, axis=1)]


def test_metrics_are_those_of_the_package():
    """All 5,000 images and 25,000 captions, with the published ground truth."""
    package = pytest.importorskip("eccv_caption").Metrics()
    coco = coco_test.read()
    images, captions = embeddings = whole_embeddings(coco)
    scores = images @ captions.T
    # The package reads at most as many candidates as a query has right answers.
    retrieved = {
        "i2t": dict(zip(coco.image_id, best(scores, coco.caption_id, 50), strict=True)),
        "t2i": dict(
            zip(coco.caption_id, best(scores.T, coco.image_id, 20), strict=True)
        ),
    }
    metrics = eccv.EccvCaption.read(coco).measure(embeddings, "cosine")
    expected = package.eccv_metrics(retrieved, "all")
    for name in ("map_at_r", "rprecision", "r1"):
        for task, value in expected[f"eccv_{name}"].items():
            assert 0.05 < value < 0.95
            assert metrics[f"{task}_{name}"] == pytest.approx(100 * value, abs=1e-9)

    right = package.cxc_gts["t2i"]
    query = [coco.caption_row[key] for key, items in right.items() for _ in items]
    candidate = [coco.image_row[item] for items in right.values() for item in items]
    relevance = Relevance.of_pairs(query, candidate, len(captions))
    of_captions = rank_relevant(
        captions,
        images,
        relevance,
        similarity="cosine",
        content="captions",
        best_only=True,
    )
    texts = Relevance.of_pairs(candidate, query, len(images))
    of_images = rank_relevant(images, captions, texts, similarity="cosine")
    assert len(of_captions.query) == 25_000 - 28
    for k in (1, 5, 10):
        recalls = package.cxc_recalls(retrieved, "all", K=k)
        for task, ranks in (("i2t", of_images), ("t2i", of_captions)):
            assert np.mean(ranks.best < k) == pytest.approx(recalls[task], abs=1e-11)
