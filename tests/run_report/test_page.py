"""The page of runs whose embeddings are made up."""

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from configs import common
from tests.run_report import page_reader
from tests.small_datasets import make_builder  # noqa: F401
from vse_jax.checkpoint import Restored
from vse_jax.data.split_index import split_index
from vse_jax.data.text.vocabulary import training_vocabulary
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.evaluator import evaluate_embeddings
from vse_jax.experiment import Experiment
from vse_jax.run_report.facts import collect
from vse_jax.run_report.page import page
from vse_jax.summaries import create_writer

ODD = (
    '<script>alert("x")</script> & <img src=x onerror=alert(1)>',
    "right to left \u202e override, \u05e9\u05dc\u05d5\u05dd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \U0001f468\u200d\U0001f469\u200d\U0001f466",
    "a null \x00 and an escape \x1b[31m",
    "a" * 3_000,
)
PARAMS = {
    "image": {"encoder": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}},
    "text": {"words": np.zeros((5, 2))},
}


def facts(builder, workdir, seed=0, noise=1.0, **options):
    """Facts of a made-up run: captions are near their images, less so with noise."""
    config = common.get_config()
    config.data.minimum_word_count = 1
    config.update_from_flattened_dict({"seed": seed, **options})
    experiment = Experiment(config, builder, training_vocabulary(builder, 1))
    index, embeddings = split_index(builder, "dev"), made_up(builder, seed, noise)
    evaluation = evaluate_embeddings("dev", index, embeddings, "cosine", 0)
    write_curves(workdir)
    restored = Restored(42, {"params": PARAMS}, {}, {}, None, {})
    return collect(experiment, evaluation, str(workdir), restored)


def made_up(builder, seed=0, noise=1.0):
    """Embeddings of captions near those of their images."""
    index = split_index(builder, "dev")
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(index.image_count, 8)).astype(np.float32)
    captions = images[index.caption_image_id]
    captions = captions + noise * rng.normal(size=captions.shape).astype(np.float32)
    return Embeddings(images, captions)


def write_curves(workdir):
    writer = create_writer(str(workdir), 0)
    for step in range(1, 6):
        names = ("loss", "gradient_norm", "gradient_norm_image", "gradient_norm_text")
        scalars = dict.fromkeys(names, 1.0 / step)
        scalars |= {f"dev/{name}": step for name in ("rsum", "i2t_r1", "t2i_r1")}
        writer.write_scalars(step, scalars)
    writer.close()


@pytest.fixture
def features(make_builder):  # noqa: F811
    """A dataset of features with odd captions in the validation split."""
    dev = make_builder.examples(12, captions=2, seed=1)
    for example in dev:
        example["captions"] = [*ODD[:2], *example["captions"]]
    for example, caption in zip(dev, ODD, strict=False):
        example["captions"][0] = caption
    return make_builder(train=make_builder.examples(20), dev=dev)


def test_captions_are_escaped(features, tmp_path):
    content = page([facts(features, tmp_path / "run", noise=3.0)])
    reader = page_reader.read(content)
    assert '<script>alert("x")</script> & <img src=x onerror=alert(1)>' in reader.words
    assert "\u202e" in reader.words
    assert not re.search("[\x00-\x08\x0b-\x1f]", content)
    assert not reader.all("img")  # the features have no photos
    for attributes in reader.all("bdi"):
        assert attributes["dir"] == "auto"


def test_names_of_runs_are_escaped(features, tmp_path):
    content = page([facts(features, tmp_path / '"><b>&amp;')])
    assert '"><b>&amp;' in page_reader.read(content).words
    assert not page_reader.read(content).all("script")


def test_page_has_the_numbers_of_the_run(features, tmp_path):
    run = facts(features, tmp_path / "run")
    words = page_reader.read(page([run])).words
    assert "12 images, 48 captions. Checkpoint of step 42" in words
    for name in ("rsum", "i2t_r1", "t2i_r10", "t2i_meanr"):
        low, high = run.intervals[name]
        assert f"{run.metrics[name]:.1f} {low:.1f}\u2013{high:.1f}" in words
    joined = words.replace(" ", "")
    assert "imageencoder16textencoder10total26" in joined
    assert "data.minimum_word_count1" in joined


def test_hubs_are_counted(features, tmp_path):
    embeddings, run = made_up(features), facts(features, tmp_path / "run")
    first = np.argsort(-embeddings.captions @ embeddings.images.T)[:, :10]
    expected = [np.sum(first == image) for image in range(run.images)]
    np.testing.assert_array_equal(run.hub_counts, expected)
    assert run.hubs[0] == int(np.argmax(expected))


def test_photos_are_thumbnails(shapes_builder, tmp_path):
    reader = page_reader.read(page([facts(shapes_builder, tmp_path / "run")]))
    photos = reader.all("img")
    assert len(photos) > 30
    for attributes in photos[:5]:
        encoded = attributes["src"].partition("base64,")[2]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.format == "JPEG"
            assert image.size == (64, 64)  # drawn scenes are small
        assert re.match(r"Image \S+: \w+", attributes["alt"])


def test_query_with_its_answer_far_behind_shows_the_answer(shapes_builder, tmp_path):
    run = facts(shapes_builder, tmp_path / "run", noise=100.0)
    (worst, *_) = run.queries["t2i"]["worst"]
    assert worst.rank > 5
    assert not any(result.is_right for result in worst.results)
    assert worst.answer.is_right
    words = page_reader.read(page([run])).words
    assert f"rank {worst.rank}, {worst.answer.similarity:.2f}" in words


def test_workdir_without_curves(features, tmp_path):
    run = dataclasses.replace(facts(features, tmp_path / "run"), curves={})
    words = page_reader.read(page([run])).words
    assert "The workdir has no TensorBoard files" in words


def test_seeds_of_one_configuration_have_a_mean_and_a_deviation(features, tmp_path):
    runs = [
        facts(features, tmp_path / "a", seed=0),
        facts(features, tmp_path / "b", seed=1),
        facts(features, tmp_path / "c", seed=2, **{"loss.margin": 0.3}),
    ]
    content = page(runs)
    words = page_reader.read(content).words
    rsums = [run.metrics["rsum"] for run in runs[:2]]
    mean, deviation = np.mean(rsums), np.std(rsums, ddof=1)
    assert "mean of 2 seeds a, b" in words
    assert f"{mean:.1f} \u00b1 {deviation:.1f}" in words
    assert "loss.margin0.20.20.3" in words.replace(" ", "")
    difference = runs[2].metrics["rsum"] - runs[0].metrics["rsum"]
    assert f"{difference:+.1f}".replace("-", "\u2212") in words
    assert len(content) < 5_000_000


def test_runs_of_other_data_are_no_seeds_of_each_other(
    features, shapes_builder, tmp_path
):
    first = facts(features, tmp_path / "a")
    second = facts(shapes_builder, tmp_path / "b")
    assert first.seeds_of != second.seeds_of
