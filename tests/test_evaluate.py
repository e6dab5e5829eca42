import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from etils import epath

from vse_jax import evaluate, parallel
from vse_jax.data.text.vocabulary import training_vocabulary
from vse_jax.errors import InputError, TrainingError
from vse_jax.evaluation import report, retrieval
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.evaluator import (
    Corrected,
    Evaluation,
    Evaluator,
    evaluate_embeddings,
)
from vse_jax.experiment import Experiment
from vse_jax.models.vse import create_model

pytestmark = pytest.mark.usefixtures("quick_compilation")


def evaluation(images=6, folds=False):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(images, 4)), rng.normal(size=(2 * images, 4))
    index = index_of(images)
    ids = index.image_id, index.caption_image_id
    ranks = retrieval.rank(*embeddings, *ids, "cosine")
    fold_metrics = (
        retrieval.evaluate_folds(*embeddings, *ids, "cosine") if folds else None
    )
    return Evaluation(
        "dev",
        index,
        Embeddings(*embeddings),
        ranks,
        retrieval.recalls(ranks),
        fold_metrics,
    )


def index_of(images, per_image=2):
    return types.SimpleNamespace(
        image_id=np.arange(images),
        image_count=images,
        caption_image_id=np.repeat(np.arange(images), per_image),
        captions=["a caption"] * (per_image * images),
    )


def test_report_shows_every_metric():
    result = evaluation()
    lines = report.format_report(result, "checkpoint of step 1,234").splitlines()
    assert lines[1] == "dev split, 6 images, 12 captions, checkpoint of step 1,234"
    metrics = result.metrics
    for line, direction in zip(lines[3:5], ("i2t", "t2i"), strict=True):
        names = [f"{direction}_{n}" for n in ("r1", "r5", "r10", "medr", "meanr")]
        shown = [float(number) for number in line.split()[3:]]
        assert shown == pytest.approx([metrics[n] for n in names], abs=0.05)
    assert float(lines[5].split()[1]) == pytest.approx(metrics["rsum"], abs=0.05)
    low, high = result.intervals["rsum"]
    assert lines[6].split() == ["95%", "interval", f"{low:.1f}", "to", f"{high:.1f}"]
    assert "folds" not in "".join(lines)


def test_report_has_both_protocols_of_coco():
    of_coco = index_of(5_000, 5)
    ranks = retrieval.Ranks(np.zeros(5_000, int), np.zeros(25_000, int))
    result = dataclasses.replace(evaluation(folds=True), index=of_coco, ranks=ranks)
    text = report.format_report(result, "checkpoint of step 1", 5)
    five_thousand, one_thousand = text.split("1K, mean of 5 folds")
    assert "5K" in five_thousand
    assert five_thousand.count("R@10") == one_thousand.count("R@10") == 1
    text = report.format_report(result, "checkpoint of step 1", 3)
    assert "1666 to 1667, mean of 3 folds" in text


def test_folds_are_those_of_the_option():
    result = evaluation(images=10)
    ids = np.arange(10), np.repeat(np.arange(10), 2)
    index = types.SimpleNamespace(
        image_id=ids[0],
        caption_image_id=ids[1],
        image_count=10,
        caption_counts=np.full(10, 2),
    )
    arguments = ("dev", index, result.embeddings, "cosine")
    assert evaluate_embeddings(*arguments, folds=0).fold_metrics is None
    ranked = evaluate_embeddings(*arguments, folds=5)
    assert ranked.metrics == result.metrics
    assert ranked.fold_metrics == retrieval.evaluate_folds(
        *result.embeddings, *ids, "cosine", folds=5
    )
    assert ranked.fold_metrics["i2t_r5"] == 100  # of the four captions of a fold
    with pytest.raises(InputError, match=r"config\.data\.folds is 11, but the split"):
        evaluate_embeddings(*arguments, folds=11)


@pytest.fixture
def write(tmp_path, config, monkeypatch):
    """Reports an evaluation of features; returns the path of the JSON file."""
    monkeypatch.setattr(report.pictures, "retrieved", lambda *_: None)
    splits = {"dev": types.SimpleNamespace(digest="of dev")}
    identity = types.SimpleNamespace(splits=splits)
    experiment = types.SimpleNamespace(config=config, identity=identity)

    def write(result, step=1):
        report.report(experiment, result, tmp_path, step)
        return epath.Path(tmp_path / "eval" / "dev.json")

    return write


def test_report_file_has_metrics_step_and_configuration(write, config):
    result = evaluation(folds=True)
    config.data.folds = 5
    path = write(result, 77)
    content = json.loads(path.read_text())
    assert content["metrics"] == result.metrics
    assert content["intervals"] == result.intervals
    assert content["fold_metrics"] == result.fold_metrics
    assert content["folds"] == 5
    assert (content["step"], content["images"], content["captions"]) == (77, 6, 12)
    assert content["config"]["loss"]["mining"] == config.loss.mining
    assert content["digest"] == "of dev"
    assert [p.name for p in path.parent.iterdir()] == ["dev.json"]


def test_corrected_metrics_are_reported_below(write, config):
    plain, folds = evaluation(), evaluation(folds=True)
    corrected = Corrected(plain.metrics | {"rsum": 123.4}, None)
    result = dataclasses.replace(plain, corrected=corrected)
    content = json.loads(write(result).read_text())
    assert content["metrics"] == plain.metrics
    assert content["hubness_metrics"]["rsum"] == 123.4
    assert "hubness_fold_metrics" not in content
    lines = report.format_corrected(corrected, config, 6).splitlines()
    assert lines[1] == "corrected for hubness with train, alpha 0.75, k 128"
    assert lines[-1].split() == ["rSum", "123.4"]

    config.data.folds = 5
    corrected = Corrected(folds.metrics, folds.fold_metrics)
    result = dataclasses.replace(folds, corrected=corrected)
    content = json.loads(write(result).read_text())
    assert content["hubness_fold_metrics"] == folds.fold_metrics
    text = report.format_corrected(corrected, config, 5_000)
    assert text.count("R@10") == 2
    assert "1K, mean of 5 folds, corrected for hubness" in text


def test_failed_report_keeps_the_previous_one(write, monkeypatch):
    path = write(evaluation())
    before = path.read_text()

    def cut_off(self, text):
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", cut_off)
    with pytest.raises(OSError, match="No space left"):
        write(evaluation(), 2)
    assert path.read_text() == before


@pytest.fixture(scope="module")
def experiment(shapes_builder):
    from configs import common

    config = common.get_config()
    config.evaluation_batch_size = 8  # of 10 images, so the last batch is padded
    config.data.token_lengths = (24, 40)
    config.model.update(text_encoder="gru", embed_dim=8, word_dim=4)
    config.model.backbone.name = "stem"
    vocabulary = training_vocabulary(shapes_builder, 1)
    return Experiment(config, shapes_builder, vocabulary)


@pytest.fixture(scope="module")
def embedded(experiment):
    """Variables, an evaluation on eight devices, and the embeddings of one device."""
    model = create_model(experiment.config, len(experiment.vocabulary), train=False)
    data = experiment.builder.as_data_source("dev")
    examples = [data[i] for i in range(len(data))]
    tokens = [
        experiment.vocabulary.encode(
            caption.decode() if isinstance(caption, bytes) else caption
        )
        for example in examples
        for caption in example["captions"]
    ]
    padded = np.zeros((len(tokens), max(map(len, tokens))), np.int32)
    for row, caption in zip(padded, tokens, strict=True):
        row[: len(caption)] = caption
    images = {"image": np.stack([example["image"] for example in examples])}
    captions = {
        "tokens": padded,
        "token_count": np.array([len(x) for x in tokens], np.int32),
    }
    one_of_both = {name: x[:1] for name, x in (images | captions).items()}
    variables = jax.jit(model.init)(jax.random.key(0), one_of_both)
    evaluator = Evaluator(experiment)
    result = evaluator.evaluate(parallel.replicate(variables), "dev")
    expected = (
        jax.jit(lambda v, b: model.apply(v, b, method=model.embed_images))(
            variables, images
        ),
        jax.jit(lambda v, b: model.apply(v, b, method=model.embed_captions))(
            variables, captions
        ),
    )
    return variables, evaluator, result, expected


def test_embeddings_have_the_order_of_the_split(embedded):
    _, _, result, (images, captions) = embedded
    np.testing.assert_allclose(result.embeddings.images, images, atol=1e-5)
    np.testing.assert_allclose(result.embeddings.captions, captions, atol=1e-5)
    assert len(result.embeddings.captions) == 5 * len(result.embeddings.images)
    ids = np.arange(10), np.repeat(np.arange(10), 5)
    ranks = retrieval.rank(
        result.embeddings.images, result.embeddings.captions, *ids, "cosine"
    )
    assert result.metrics == retrieval.recalls(ranks)


def test_correction_takes_its_bank_from_the_train_split(embedded):
    variables, evaluator, result, _ = embedded
    variables = parallel.replicate(variables)
    config = evaluator._config
    config.evaluation.hubness_k, config.evaluation.hubness_alpha = 7, 0.6
    corrected = evaluator.correct(variables, result).corrected
    bank, (images, captions) = (
        evaluation.embeddings
        for evaluation in (evaluator.evaluate(variables, "train"), result)
    )
    assert len(bank.images) == 24
    biases = retrieval.Biases(
        0.6 * np.sort(images @ bank.captions.T)[:, -7:].mean(1),
        0.6 * np.sort(captions @ bank.images.T)[:, -7:].mean(1),
    )
    ids = np.arange(10), np.repeat(np.arange(10), 5)
    ranks = retrieval.rank(images, captions, *ids, "cosine", biases=biases)
    assert corrected.metrics == pytest.approx(retrieval.recalls(ranks))
    assert corrected.metrics != result.metrics
    assert corrected.fold_metrics is None


def test_embeddings_that_are_not_finite_are_refused(embedded):
    variables, evaluator, _, _ = embedded
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), variables)
    with pytest.raises(TrainingError, match="of the dev images are not finite"):
        evaluator.evaluate(parallel.replicate(broken), "dev")


def test_missing_split_is_refused(embedded):
    variables, evaluator, _, _ = embedded
    with pytest.raises(InputError, match="testall"):
        evaluator.evaluate(parallel.replicate(variables), "testall")


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ({}, True),  # features as they are are compared by their description
        ({"mean": np.ones(4), "components": np.eye(4, 2)}, True),
        ({"mean": np.ones(4) + 1e-6, "components": np.eye(4, 2)}, True),
        ({"mean": np.ones(4), "components": np.eye(4, 2)[::-1]}, False),
        ({"mean": np.ones(5), "components": np.eye(5, 2)}, False),
    ],
)
def test_features_of_another_pca_are_refused(found, same):
    trained_on = {"mean": np.ones(4), "components": np.eye(4, 2)}
    restored = types.SimpleNamespace(pca=trained_on, run={"extraction": {"pool": 0}})
    experiment = types.SimpleNamespace(
        builder=types.SimpleNamespace(data_dir="features"), pca_arrays=found
    )
    if same:
        evaluate._check_pca(experiment, restored)
        return
    with pytest.raises(InputError, match=r"^features: .*another PCA.*pca\.npz"):
        evaluate._check_pca(experiment, restored)
