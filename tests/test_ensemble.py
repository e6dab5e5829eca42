"""Runs that are evaluated together, and reports of them: real runs of main.py."""

import json
import os
import types

import numpy as np
import pytest

from tests import programs
from tests.evaluation.coco_stand_in import CocoStandIn
from tests.evaluation.test_retrieval import SCORES
from tests.run_report import page_reader
from vse_jax import ensemble, saved_model, several_runs
from vse_jax.data.identity import SplitIdentity
from vse_jax.errors import InputError
from vse_jax.evaluate import open_run
from vse_jax.evaluation import coco_test, retrieval
from vse_jax.evaluation.eccv import EccvCaption
from vse_jax.evaluation.embedder import Embeddings

pytestmark = pytest.mark.usefixtures("quick_compilation")


def made_up(dim, seed, images=9):
    rng = np.random.default_rng(seed)
    return Embeddings(
        rng.normal(size=(images, dim)).astype(np.float32),
        rng.normal(size=(3 * images, dim)).astype(np.float32),
    )


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_ranks(scores, own):
    """Ranks of the best right answers of the rows of a matrix."""
    return np.array(
        [
            sum(score >= row[mine].max() for score in row[~mine])
            for row, mine in zip(scores, own, strict=True)
        ]
    )


@pytest.mark.parametrize("similarity", SCORES)
def test_ranks_are_those_of_the_mean_matrix(similarity):
    models = [made_up(4, 0), made_up(7, 1), made_up(5, 2)]
    matrices = []
    for images, captions in models:
        if similarity == "cosine":
            images, captions = unit(images), unit(captions)
        score = SCORES[similarity]
        matrices.append([[score(i, c) for c in captions] for i in images])
    mean = np.mean(matrices, axis=0)
    ids = np.arange(9), np.repeat(np.arange(9), 3)
    own = ids[0][:, None] == ids[1]
    ranks = retrieval.rank(*ensemble.stack(models, similarity), *ids, similarity)
    np.testing.assert_array_equal(ranks.image_to_text, naive_ranks(mean, own))
    np.testing.assert_array_equal(ranks.text_to_image, naive_ranks(mean.T, own.T))


def test_long_embeddings_weigh_no_more():
    first, second = made_up(4, 0), made_up(4, 1)
    longer = Embeddings(first.images * 100, first.captions)
    for one, other in zip(
        ensemble.stack([first, second], "cosine"),
        ensemble.stack([longer, second], "cosine"),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs whose embeddings have different sizes."""
    place = programs.playground(tmp_path_factory.getbasetemp())
    first, _ = place.trained()
    second = place.workdir("narrow")
    options = "--config.model.embed_dim=12", "--config.epochs=1", "--config.seed=3"
    finished = place.run(f"--workdir={second}", *options)
    assert finished.returncode == 0, finished.stderr
    return first, second


@pytest.fixture(scope="module")
def evaluated(runs):
    finished = programs.run("--mode=eval", f"--ensemble={runs[0]},{runs[1]}")
    assert finished.returncode == 0, finished.stderr
    return finished, json.loads((runs[0] / "eval" / "test-ensemble.json").read_text())


def test_metrics_are_those_of_the_mean_matrix_of_two_runs(runs, evaluated):
    _, report = evaluated
    evaluations = [open_run(str(workdir)).evaluate() for workdir in runs]
    mean = np.mean(
        [
            unit(e.images) @ unit(e.captions).T
            for e in (each.embeddings for each in evaluations)
        ],
        axis=0,
    )
    index = evaluations[0].index
    own = index.image_id[:, None] == index.caption_image_id
    ranks = retrieval.Ranks(naive_ranks(mean, own), naive_ranks(mean.T, own.T))
    assert report["metrics"] == pytest.approx(retrieval.recalls(ranks))
    for member, each, workdir in zip(report["runs"], evaluations, runs, strict=True):
        assert member["workdir"] == str(workdir)
        assert member["metrics"] == pytest.approx(each.metrics)
    sizes = [member["config"]["model"]["embed_dim"] for member in report["runs"]]
    assert sizes == [16, 12]


def test_table_of_an_ensemble(runs, evaluated):
    finished, report = evaluated
    assert "test split, 12 images, 60 captions, mean of 2 runs" in finished.stdout
    assert f"rSum           {report['metrics']['rsum']:7.1f}" in finished.stdout
    for member in report["runs"]:
        line = f"rSum {member['metrics']['rsum']:.1f}, {member['workdir']}, checkpoint"
        assert line in finished.stdout
    assert f"metrics:     {runs[0] / 'eval' / 'test-ensemble.json'}" in finished.stdout
    low, high = report["intervals"]["rsum"]
    assert low <= report["metrics"]["rsum"] <= high


def test_suite_of_an_ensemble(runs, tmp_path, monkeypatch):
    """A run of the program with a package of a small ground truth."""
    package = tmp_path / "eccv_caption"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    stand_in = CocoStandIn(package / "data", images=12)
    finished = programs.run(
        "--mode=eval",
        f"--ensemble={runs[0]},{runs[1]}",
        "--suite=eccv",
        f"--output={tmp_path / 'both.json'}",
        env=programs.environment() | {"PYTHONPATH": str(tmp_path)},
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "both.json").read_text())["eccv_metrics"]
    models = [open_run(str(workdir)).evaluate().embeddings for workdir in runs]
    images, captions = ensemble.stack(models, "cosine")
    coco = stand_in.coco
    own = 5 * coco.image_id[coco.image] + np.tile(range(5), 12)
    embeddings = Embeddings(images[:, coco.image_id], captions[:, own])
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    suite = EccvCaption.read(coco)
    assert found == pytest.approx(suite.measure(embeddings, "cosine"))
    shown = finished.stdout.split("\nECCV Caption\n")[1].splitlines()[1].split()
    assert shown[3] == f"{found['i2t_map_at_r']:.1f}"


def test_report_of_features(runs):
    finished = programs.run("--mode=report", f"--workdir={runs[0]}")
    assert finished.returncode == 0, finished.stderr
    path = runs[0] / "eval" / "test.html"
    assert f"report:      {path}" in finished.stdout
    content = path.read_text()
    reader = page_reader.read(content)
    metrics = json.loads((runs[0] / "eval" / "test.json").read_text())
    low, high = metrics["intervals"]["rsum"]
    rsum = f"rSum{metrics['metrics']['rsum']:.1f}95%: {low:.1f} to {high:.1f}"
    assert rsum in reader.words
    assert not reader.all("img")
    assert "Loss" in reader.words
    assert len(content) < 1_000_000


def test_report_of_several_runs(runs, tmp_path):
    path = tmp_path / "both.html"
    finished = programs.run(
        "--mode=report",
        f"--runs={runs[0]},{runs[1]}",
        "--split=dev",
        f"--output={path}",
    )
    assert finished.returncode == 0, finished.stderr
    reader = page_reader.read(path.read_text())
    assert "Differences from f8k_rvse" in reader.words
    assert "model.embed_dim1612" in reader.words.replace(" ", "")
    assert "mean of 2 seeds" not in reader.words  # their sizes differ


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode=eval", "--ensemble={0},{1}/none"], ["none has no checkpoint"]),
        (["--mode=eval", "--ensemble={0}"], ["names 1 run", "at least two"]),
        (["--mode=eval", "--ensemble="], ["--ensemble has an empty name"]),
        (["--mode=report", "--runs={0},"], ["--runs has an empty name"]),
        (
            ["--mode=report", "--ensemble={0},{1}"],
            ["--ensemble belongs to --mode=eval"],
        ),
        (
            ["--mode=report", "--workdir={0}", "--suite=cxc"],
            ["--suite belongs to --mode=eval, not to report"],
        ),
        (["--mode=eval", "--runs={0},{1}"], ["--runs belongs to --mode=report"]),
        (["--mode=report", "--runs={0}", "--workdir={1}"], ["leave out --workdir"]),
        (["--mode=report", "--workdir={0}", "--split=testall"], ["'testall'"]),
        (
            ["--mode=report", "--workdir={0}", "--output=/dev/null/a.html"],
            ["cannot write to", "null/a.html"],
        ),
        (
            ["--mode=eval", "--ensemble={0},{1}", "--output={0}"],
            ["--output is", "which is a folder; name a file"],
        ),
    ],
)
def test_refused(runs, options, words):
    finished = programs.run(*(option.format(*runs) for option in options))
    message = programs.refusal(finished)
    for word in words:
        assert word in message


@pytest.mark.parametrize("other", ["/runs/./a/", "a", "./a"])
def test_run_that_is_named_twice_is_refused(other, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/runs")
    with pytest.raises(InputError, match=f"the run {other} is named twice"):
        several_runs.open_runs(["/runs/a", other], "", "best", {})


def test_link_to_a_run_is_the_run(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    named = [f"{tmp_path}/{name}" for name in "ab"]
    with pytest.raises(InputError, match=f"{named[1]} is named twice, also as"):
        several_runs.open_runs(named, "", "best", {})


def test_copy_of_a_run_is_the_same_model(monkeypatch):
    run = types.SimpleNamespace
    runs = [run(workdir=name, restored=name[0]) for name in ("a", "b", "a/export")]
    monkeypatch.setattr(saved_model, "fingerprint", lambda restored: restored)
    with pytest.raises(InputError, match="a and a/export have the same model, which"):
        ensemble._check_distinct(runs)
    ensemble._check_distinct(runs[:2])


def test_correction_of_hubness_is_refused_and_not_ignored():
    with pytest.raises(InputError, match=r"config.evaluation.hubness is True, but ens"):
        several_runs.open_runs(["a", "b"], "", "best", {"evaluation.hubness": True})


def identity(ids=("a", "b", "c"), captions=(1, 2, 3), count=6):
    return SplitIdentity(
        list(ids), np.arange(3, dtype=np.uint64), np.array(captions, np.uint64), count
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (identity(("a", "x", "c")), "record 1 is image 'x' instead of 'b'"),
        (identity(captions=(1, 2, 4)), "the captions of image 'c' differ"),
        (identity(count=7), "3 images and 7 captions instead of 3 and 6"),
        (identity(("a", "c", "b")), "record 1 is image 'c' instead of 'b'"),
    ],
)
def test_runs_of_other_splits_are_refused(other, words):
    runs = [
        types.SimpleNamespace(
            workdir=name,
            split="test",
            experiment=types.SimpleNamespace(
                identity=types.SimpleNamespace(splits={"test": split})
            ),
        )
        for name, split in (("runs/a", identity()), ("runs/b", other))
    ]
    with pytest.raises(InputError) as info:
        several_runs._check_same_split(*runs)
    message = str(info.value)
    assert message.startswith("runs/b has another split 'test' than runs/a: ")
    assert words in message
    several_runs._check_same_split(runs[0], runs[0])


def test_similarities_of_different_scales_are_refused():
    runs = [
        types.SimpleNamespace(
            workdir=name,
            experiment=types.SimpleNamespace(
                config=types.SimpleNamespace(
                    loss=types.SimpleNamespace(similarity=similarity)
                )
            ),
        )
        for name, similarity in (("runs/a", "cosine"), ("runs/b", "order"))
    ]
    with pytest.raises(
        InputError, match="runs/b has the similarity 'order' and runs/a"
    ):
        ensemble._check_similarity(runs)
