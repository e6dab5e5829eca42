import pathlib
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vse_jax import experiment
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.models.image_encoders import ENCODERS


def builder_of(content):
    """Returns a builder whose examples contain regions, a feature or an image."""
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
    "regions": ("region_residual", "region_parallel", "region_linear"),
    "feature": ("global",),
    "image": tuple(ENCODERS),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("content", FITTING)
def test_encoder_must_fit_the_content(config, content, encoder):
    config.model.backbone.name = "stem" if content == "image" else ""
    config.model.image_encoder = encoder
    if encoder in FITTING[content]:
        experiment.check_content(config, builder_of(content))
        return
    with pytest.raises(InputError) as error:
        experiment.check_content(config, builder_of(content))
    message = str(error.value)
    assert f"image_encoder is {encoder!r}" in message
    assert "/data/small/1.0.0" in message
    assert message.endswith(" or ".join(map(repr, FITTING[content])))


@pytest.mark.parametrize("content", FITTING)
def test_photos_need_a_backbone_and_features_none(config, content):
    config.model.backbone.name = "" if content == "image" else "stem"
    config.model.image_encoder = FITTING[content][0]
    with pytest.raises(InputError, match=r"model\.backbone\.name is") as error:
        experiment.check_content(config, builder_of(content))
    assert ("'stem'" in str(error.value).split("set it to")[1]) == (content == "image")


def test_the_model_of_a_start_decides_the_dataset(config):
    """Setting the option would change nothing, as the start replaces it."""
    config.start_from = "runs/clip"
    config.model.backbone.name = "resnet50"
    with pytest.raises(InputError, match=r"is the model of config\.start_from, runs/"):
        experiment.check_content(config, builder_of("regions"))


def test_same_vocabulary_is_accepted():
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
    """A configuration of the small dataset of images."""
    config.data.builder = "shapes"
    config.data.scene_counts = (24, 10, 10)
    config.data.data_dir = str(pathlib.Path(shapes_builder.data_dir).parents[2])
    config.data.minimum_word_count = 1
    config.model.backbone.name = "stem"
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
    with pytest.raises(InputError, match="'zebra' in the checkpoint"):
        experiment.create_experiment(shapes_config, foreign)
    shapes_config.data.vocabulary = "checkpoint"
    made = experiment.create_experiment(shapes_config, foreign)
    assert made.vocabulary == foreign


@pytest.mark.parametrize("given", [None, Vocabulary(["zebra", "yak", "gnu"])])
@pytest.mark.parametrize("encoder", ["bert", "clip_text", "siglip_text"])
def test_text_transformer_has_a_row_for_each_token(shapes_config, encoder, given):
    shapes_config.data.vocabulary = "checkpoint"
    model = shapes_config.model
    model.text_encoder = encoder
    found = experiment.create_experiment(shapes_config, given)
    tokens = len(found.vocabulary)
    model.text_tower.vocabulary_size = tokens
    experiment.create_experiment(shapes_config, given)
    model.text_tower.vocabulary_size = tokens - 1
    with pytest.raises(InputError) as error:
        experiment.create_experiment(shapes_config, given)
    assert str(error.value) == (
        f"config.model.text_tower.vocabulary_size is {tokens - 1}, but the vocabulary "
        f"has {tokens} different tokens; set it to {tokens} or more, or to 0 for as "
        "many as there are"
    )
    model.text_encoder = "gru"  # which has as many as there are
    experiment.create_experiment(shapes_config, given)


def test_padding_is_one_of_the_tokens(config):
    config.model.text_tower.padding = 7
    for encoder in ("bert", "clip_text"):  # which do not read it
        config.model.text_encoder = encoder
        experiment.check_text_tower(config.model, 7)
    config.model.text_encoder = "siglip_text"
    experiment.check_text_tower(config.model, 8)
    with pytest.raises(
        InputError, match=r"text_tower\.padding is 7, but the model has 7"
    ):
        experiment.check_text_tower(config.model, 7)
    config.model.text_tower.vocabulary_size = 8
    experiment.check_text_tower(config.model, 7)


@pytest.mark.parametrize(
    ("splits", "expected"), [(["test", "dev"], "test"), (["dev"], "dev")]
)
def test_default_split_is_the_test_split_if_there_is_one(
    config, caplog, splits, expected
):
    info = types.SimpleNamespace(splits=splits)
    made = experiment.Experiment(config, types.SimpleNamespace(info=info), None)
    assert [made.default_split for _ in range(3)] == [expected] * 3
    # A training asks for it several times.
    assert caplog.text.count("the dataset has no split 'test'") == 2 - len(splits)
