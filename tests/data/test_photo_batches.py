"""Tests batches of photos of any size: crops, resuming, hosts, invalid input."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from configs import common
from tests.photo_files import drawn, encoded
from vse_jax.data import input_pipeline, photo_crops, photo_geometry, records
from vse_jax.data.sampling import Sampler
from vse_jax.data.text.vocabulary import training_vocabulary
from vse_jax.errors import InputError

TRAIN, DEV = 19, 7


def photo(number):
    kind = "PNG" if number % 4 == 0 else "JPEG"
    return encoded(drawn(40 + 3 * number, 90 - 2 * number, number), kind)


@pytest.fixture
def builder(make_builder):
    def examples(count, seed):
        found = make_builder.examples(count, seed=seed)
        for number, example in enumerate(found):
            del example["regions"]
            example["image"] = io.BytesIO(photo(number))
        return found

    image = tfds.features.Image(shape=(None, None, 3))
    return make_builder(
        {"image": image}, train=examples(TRAIN, 0), dev=examples(DEV, 1)
    )


@pytest.fixture
def config():
    config = common.get_config()
    config.batch_size, config.evaluation_batch_size = 4, 4
    config.data.image_size = 24
    return config


def train(builder, config, start_step=0, num_steps=9, **hosts):
    vocabulary = training_vocabulary(builder, 1)
    plan = input_pipeline.training_plan(builder, vocabulary, config, **hosts)
    options = {"start_step": start_step, "num_steps": num_steps}
    batches = list(input_pipeline.train_batches(builder, config, plan, **options))
    assert len(batches) == num_steps
    return batches


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        assert value.dtype == other[key].dtype
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def test_training_crops_depend_on_pass_and_image(builder, config):
    sampler = Sampler(config.seed, np.full(TRAIN, 5), 4)
    for step, batch in enumerate(train(builder, config)):
        assert batch.keys() == {"image", "image_id", "tokens", "token_count"}
        rows = sampler.rows(step)
        numbers = photo_crops.crop_numbers(0, rows.pass_number, rows.image)
        encoded_photos = tf.constant([photo(image) for image in rows.image])
        expected = photo_crops.random_crops(encoded_photos, numbers, 24)
        np.testing.assert_array_equal(batch["image"], expected)


def test_crops_differ_from_pass_to_pass(builder, config):
    seen = {}
    for batch in train(builder, config, num_steps=10):
        for image, pixels in zip(batch["image_id"], batch["image"], strict=True):
            seen.setdefault(int(image), []).append(pixels)
    twice = [pixels for pixels in seen.values() if len(pixels) > 1]
    assert len(twice) > 10
    assert all((pixels[0] != pixels[1]).any() for pixels in twice)


@pytest.mark.parametrize("augment", [True, False])
def test_same_batch_wherever_the_iterator_starts(builder, config, augment):
    config.data.augment = augment
    straight = train(builder, config)
    for start in (1, 7):
        resumed = train(builder, config, start_step=start, num_steps=9 - start)
        for batch, other in zip(resumed, straight[start:], strict=True):
            assert_equal(batch, other)


@pytest.mark.parametrize("augment", [True, False])
def test_slices_of_hosts_make_the_global_batch(builder, config, augment):
    config.data.augment = augment
    hosts = [train(builder, config, process_index=i, process_count=2) for i in (0, 1)]
    for batch, *slices in zip(train(builder, config), *hosts, strict=True):
        joined = {k: np.concatenate([s[k] for s in slices]) for k in batch}
        assert_equal(joined, batch)


def test_captions_of_photos_are_not_augmented(builder, config):
    plain = common.get_config()
    plain.update(config)
    plain.data.augment = False
    for batch, other in zip(train(builder, config), train(builder, plain), strict=True):
        np.testing.assert_array_equal(batch["tokens"], other["tokens"])
        assert (batch["image"] != other["image"]).any()


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize(("resize", "shorter"), [(0, 27), (24, 24), (30, 30)])
def test_evaluation(builder, config, crops, resize, shorter):
    config.data.crops, config.data.resize = crops, resize
    batches = list(input_pipeline.image_batches(builder, "dev", config))
    image_id = np.concatenate([batch["image_id"] for batch in batches])
    assert image_id.tolist() == [*range(DEV), -1]
    function = photo_crops.center_crops if crops == 1 else photo_crops.ten_crops
    geometry = photo_geometry.Geometry(24, shorter)
    expected = function(tf.constant([photo(i) for i in range(DEV)]), geometry)
    images = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(images[:DEV], expected)
    assert train(builder, config, num_steps=1)[0]["image"].shape == (4, 24, 24, 3)


def test_sum_of_splits_to_train_on(builder, config):
    config.data.train_split = "train+dev"
    assert input_pipeline.steps_per_epoch(builder, config) == 5 * (TRAIN + DEV) // 4
    vocabulary = training_vocabulary(builder, 1, "train+dev")
    plan = input_pipeline.training_plan(builder, vocabulary, config)
    batches = input_pipeline.train_batches(
        builder, config, plan, start_step=0, num_steps=6
    )
    seen = np.concatenate([batch["image_id"] for batch in batches])
    assert len(set(seen.tolist())) > TRAIN - 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"image_size": 0}, r"data\.image_size is 0.*differ in size"),
        ({"image_size": -1}, r"data\.image_size is -1"),
        ({"crops": 5}, r"data\.crops is 5; expected 1 or 10"),
    ],
)
def test_refuses_options(builder, config, options, match):
    config.data.update(options)
    for call in (
        lambda: train(builder, config),
        lambda: input_pipeline.image_batches(builder, "dev", config),
    ):
        with pytest.raises(InputError, match=match) as error:
            call()
        assert "\n" not in str(error.value)


def test_refuses_ten_crops_of_images_of_one_size(shapes_builder, config):
    config.data.update({"image_size": 0, "crops": 10})
    with pytest.raises(
        InputError, match=r"config\.data\.crops is 10, but config\.data\.image_size"
    ):
        input_pipeline.image_batches(shapes_builder, "dev", config)


def test_images_of_one_size_may_be_cropped_too(shapes_builder, config):
    batch = train(shapes_builder, config, num_steps=1)[0]
    assert batch["image"].shape == (4, 24, 24, 3)


def test_undecodable_photo_is_reported_in_one_line(make_builder, config, monkeypatch):
    examples = make_builder.examples(9)
    for example in examples:
        del example["regions"]
        # A PNG: of a JPEG, libjpeg would print the damage itself.
        example["image"] = io.BytesIO(photo(4)[:500])
    image = tfds.features.Image(shape=(None, None, 3))
    builder = make_builder({"image": image}, train=examples)
    with pytest.raises(InputError, match="'train' cannot be read") as error:
        train(builder, config)
    assert "\n" not in str(error.value)
    assert str(Path(builder.data_dir)) in str(error.value)


def test_pictures_of_any_size(builder):
    content = records.content_of(builder)
    serialized = records.RecordReader(builder, "dev").read(np.array([3, 4]))
    shapes = [image.shape for image in records.decode_each(content, serialized)]
    assert shapes == [(84, 49, 3), (82, 52, 3)]
