"""Suites of a whole evaluation, with a stand-in for COCO's test split."""

import json

import numpy as np
import pytest

from tests.evaluation.coco_stand_in import PER_IMAGE, CocoStandIn
from tests.evaluation.test_cxc import assert_all_tasks, within
from vse_jax import evaluate
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test, correlation, eccv
from vse_jax.evaluation.embedder import Embeddings

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = CocoStandIn(tmp_path, images=10)
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    monkeypatch.setattr(correlation, "SAMPLES", 20)
    return stand_in


def embeddings_of(workdir, coco):
    """Embeds the test split; returns its rows in the order of the ground truth."""
    images, captions = evaluate.open_run(workdir, "test").evaluate().embeddings
    position = np.tile(range(PER_IMAGE), len(coco.image_id))
    rows = PER_IMAGE * coco.image_id[coco.image] + position
    return Embeddings(images[coco.image_id], captions[rows])


def test_cxc_is_reported_beside_the_recalls(scene_run, stand_in, capsys):
    workdir = str(scene_run[0])
    overrides = {"evaluation.suite": "cxc", "evaluation.cxc": str(stand_in.folder)}
    metrics = evaluate.evaluate(workdir, "test", overrides=overrides)
    printed = capsys.readouterr().out
    report = json.loads((scene_run[0] / "eval" / "test.json").read_text())
    assert report["metrics"] == metrics
    assert report["config"]["evaluation"]["suite"] == "cxc"
    found = report["cxc_metrics"]
    images, captions = embeddings_of(workdir, stand_in.coco)
    assert_all_tasks(
        found, stand_in, images @ captions.T, within(images), within(captions)
    )
    recalls, suite = printed.split("\nCrisscrossed Captions\n")
    assert "rSum" in recalls
    line = next(line for line in suite.splitlines() if line.startswith("text to text"))
    assert line.split()[3:] == [
        *(f"{found[f't2t_r{k}']:.1f}" for k in (1, 5, 10)),
        "50",
    ]
    assert "metrics:     " in suite


def test_eccv_is_reported_beside_the_recalls(scene_run, stand_in, capsys):
    workdir = str(scene_run[0])
    evaluate.evaluate(workdir, "test", overrides={"evaluation.suite": "eccv"})
    assert "\nECCV Caption\n" in capsys.readouterr().out
    report = json.loads((scene_run[0] / "eval" / "test.json").read_text())
    suite = eccv.EccvCaption.read(stand_in.coco)
    expected = suite.measure(embeddings_of(workdir, stand_in.coco), "cosine")
    assert report["eccv_metrics"] == pytest.approx(expected)


def test_recall_alone_has_no_other_metrics(scene_run, capsys):
    evaluate.evaluate(str(scene_run[0]), "test")
    report = json.loads((scene_run[0] / "eval" / "test.json").read_text())
    assert not report.keys() & {"cxc_metrics", "eccv_metrics"}
    assert "Captions\n" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("split", "overrides", "words"),
    [
        ("test", {"evaluation.suite": "cxc"}, "config.evaluation.cxc is empty"),
        ("test", {"evaluation.suite": "bleu"}, "suite is 'bleu'; expected"),
        ("train", {"evaluation.suite": "eccv"}, "which is none of them; choose COCO's"),
    ],
)
def test_suites_are_refused_before_anything_is_embedded(
    scene_run, stand_in, split, overrides, words, monkeypatch
):
    monkeypatch.setattr(evaluate.Evaluator, "evaluate", None)
    with pytest.raises(InputError) as info:
        evaluate.evaluate(str(scene_run[0]), split, overrides=overrides)
    assert words in str(info.value)
