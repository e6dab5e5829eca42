import pathlib
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vse_jax import experiment
from vse_jax.data.vocabulary import Vocabulary
from vse_jax.errors import InputError


def test_defaults_are_taken(config):
    experiment.check_options(config)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("dtype", "float16", "'float32', 'bfloat16'"),
        ("data.vocabulary", "mine", "'dataset', 'checkpoint'"),
        ("model.image_encoder", "resnet", "'region_residual'"),
        ("model.text_encoder", "bert", "'bigru_gpo'"),
        ("loss.mining", "hard", "'hardest'"),
        ("loss.warmup_mining", "none", "'', 'all'"),
        ("loss.reduction", "max", "'mean', 'sum'"),
        ("loss.similarity", "dot", "'cosine', 'order'"),
        ("optimizer.name", "sgd", "'adam', 'adamw'"),
        ("batch_size", 0, "at least 1"),
        ("epochs", -1, "at least 1"),
        ("log_every_steps", 0, "at least 1"),
        ("checkpoint_every_steps", 0, "at least 1"),
        ("evaluate_every_epochs", 0, "at least 1"),
        ("evaluation_batch_size", 0, "at least 1"),
        ("model.embed_dim", 0, "at least 1"),
        ("model.word_dim", 0, "at least 1"),
        ("optimizer.learning_rate", 0.0, "more than 0"),
        ("optimizer.decay_factor", -0.1, "more than 0"),
    ],
)
def test_option_that_cannot_be_is_refused_by_its_name(config, option, value, expected):
    config.update_from_flattened_dict({option: value})
    with pytest.raises(InputError) as error:
        experiment.check_options(config)
    message = str(error.value)
    assert message.startswith(f"config.{option} is {value!r}, expected ")
    assert expected in message
    assert "\n" not in message


def test_warm_up_needs_a_mining(config):
    config.loss.warmup_epochs = 1
    with pytest.raises(InputError, match=r"warmup_mining is empty"):
        experiment.check_options(config)
    config.loss.warmup_mining = "all"
    experiment.check_options(config)


def builder_of(content):
    """A builder whose examples hold regions, a feature or an image."""
    feature = {
        "regions": tfds.features.Tensor(shape=(None, 8), dtype=np.float16),
        "feature": tfds.features.Tensor(shape=(8,), dtype=np.float16),
        "image": tfds.features.Image(shape=(64, 64, 3)),
    }[content]
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict(
        {"image_id": text, "captions": tfds.features.Sequence(text), content: feature}
    )
    return types.SimpleNamespace(
        info=types.SimpleNamespace(features=features), data_dir="/data/small/1.0.0"
    )


FITTING = {
    "regions": ("region_residual", "region_parallel"),
    "feature": ("global",),
    "image": ("pixels",),
}


@pytest.mark.parametrize("content", FITTING)
def test_encoder_must_fit_the_content(config, content):
    for encoder in experiment.CONTENT_OF_ENCODER:
        config.model.image_encoder = encoder
        if encoder in FITTING[content]:
            experiment.check_content(config, builder_of(content))
            continue
        with pytest.raises(InputError) as error:
            experiment.check_content(config, builder_of(content))
        message = str(error.value)
        assert f"image_encoder is {encoder!r}" in message
        assert "/data/small/1.0.0" in message
        assert message.endswith(" or ".join(map(repr, FITTING[content])))


def test_same_vocabulary_is_taken():
    experiment.check_vocabulary(Vocabulary(["a", "b"]), Vocabulary(["a", "b"]))


@pytest.mark.parametrize("words", [["a", "c"], ["b", "a"], ["a"], ["a", "b", "c"]])
def test_other_vocabulary_is_refused(words):
    with pytest.raises(InputError) as error:
        experiment.check_vocabulary(Vocabulary(["a", "b"]), Vocabulary(words))
    message = str(error.value)
    assert "checkpoint's vocabulary (7 words)" in message
    assert f"({len(words) + 5} words)" in message
    assert "config.data.vocabulary=checkpoint" in message
    assert "\n" not in message


@pytest.fixture
def shapes_config(config, shapes_builder):
    """A configuration of the small dataset of pictures."""
    config.data.builder = "shapes"
    config.data.scene_counts = (24, 10, 10)
    config.data.data_dir = str(pathlib.Path(shapes_builder.data_dir).parents[2])
    config.data.minimum_word_count = 1
    config.model.image_encoder = "pixels"
    return config


def test_experiment_has_the_dataset_and_its_vocabulary(shapes_config, shapes_builder):
    made = experiment.create_experiment(shapes_config)
    assert str(made.builder.data_dir) == str(shapes_builder.data_dir)
    assert {"red", "circle"} <= set(made.vocabulary.words)
    model = made.create_model(train=True)
    assert model.vocabulary_size == len(made.vocabulary)
    assert model.train


def test_checkpoint_of_another_vocabulary_needs_an_option(shapes_config):
    foreign = Vocabulary(["zebra"])
    with pytest.raises(InputError, match="'zebra' there"):
        experiment.create_experiment(shapes_config, foreign)
    shapes_config.data.vocabulary = "checkpoint"
    made = experiment.create_experiment(shapes_config, foreign)
    assert made.vocabulary == foreign


def test_dotted_names_reach_into_groups(config):
    config.loss.margin = 0.7
    assert experiment.value_of(config, "loss.margin") == 0.7
    assert experiment.value_of(config, "seed") == config.seed
