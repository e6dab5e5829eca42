"""Tests TFDS's coco_captions offline, with a tiny dataset of the same layout."""

import io
import pathlib

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from configs import common
from tests.photo_files import decoded, drawn, encoded
from vse_jax.data import datasets, input_pipeline, split_index
from vse_jax.data.text.vocabulary import training_vocabulary
from vse_jax.errors import InputError

COUNTS = {"train": 8, "val": 3, "test": 3, "restval": 4}


def photo(split, number):
    # Many of COCO's photos are gray.
    image = drawn(24 + number, 30, seed=number)
    return encoded(image.convert("L") if number % 3 == 0 else image)


def generate(self, split):
    for number in range(COUNTS[split]):
        name = f"COCO_{split}_{number}.jpg"
        yield (
            number,
            {
                "image": io.BytesIO(photo(split, number)),
                "image/filename": name,
                "image/id": number,
                "objects": [],
                "captions": [
                    {"id": c, "text": f"caption {c} of {name}"} for c in range(4)
                ],
            },
        )


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Replaces the downloads of TFDS's builder, and keeps its features."""
    builder = tfds.builder_cls("coco_captions")
    monkeypatch.setattr(
        builder,
        "_split_generators",
        lambda self, _: {split: generate(self, split) for split in COUNTS},
    )
    data = common.get_config().data
    data.builder = "coco_captions"
    data.data_dir = str(tmp_path)
    data.train_split = "train+restval"
    return data


def test_fields_are_read(data):
    builder = datasets.prepare(data)
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == COUNTS
    assert builder.info.file_format.value == "array_record"
    index = split_index.split_index(builder, "val")
    assert sorted(index.image_ids) == [f"COCO_val_{i}.jpg" for i in range(3)]
    for name, begin in zip(index.image_ids, index.caption_offset, strict=False):
        captions = [f"caption {c} of {name}" for c in range(4)]
        assert index.captions[begin : begin + 4] == captions


def test_batches(data):
    config = common.get_config()
    config.data.update(data)
    config.data.image_size = 16
    config.batch_size, config.evaluation_batch_size = 4, 3
    builder = datasets.prepare(config.data)
    vocabulary = training_vocabulary(builder, 1, config.data.train_split)
    assert input_pipeline.steps_per_epoch(builder, config) == 12
    plan = input_pipeline.training_plan(builder, vocabulary, config)
    batches = list(
        input_pipeline.train_batches(builder, config, plan, start_step=0, num_steps=3)
    )
    seen = np.concatenate([batch["image_id"] for batch in batches])
    assert sorted(seen) == list(range(12))
    assert batches[0]["image"].shape == (4, 16, 16, 3)
    [batch] = input_pipeline.image_batches(builder, "test", config)
    index = split_index.split_index(builder, "test")
    for name, image in zip(index.image_ids, batch["image"], strict=True):
        number = int(name.split("_")[2].removesuffix(".jpg"))
        mean = decoded(photo("test", number)).mean()
        assert abs(image.mean() - mean) < 25


def test_is_prepared_once(data):
    first = datasets.prepare(data)
    [path] = pathlib.Path(first.data_dir).glob("*-val.array_record*")
    before = path.stat().st_mtime_ns
    assert datasets.prepare(data).data_dir == first.data_dir
    assert path.stat().st_mtime_ns == before
    assert pathlib.Path(first.data_dir).parts[-3] == "coco_captions"


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("no route\nto host"),
        tfds.download.DownloadError("HTTP code: 404"),
        tfds.download.download_manager.NonMatchingChecksumError("x", "y"),
    ],
)
def test_failing_download_is_reported_in_one_line(data, monkeypatch, error):
    def fail(self, _):
        raise error

    monkeypatch.setattr(tfds.builder_cls("coco_captions"), "_split_generators", fail)
    with pytest.raises(InputError, match="coco_captions: cannot be downloaded") as info:
        datasets.prepare(data)
    assert "\n" not in str(info.value)
    assert "karpathy_images" in str(info.value)


def test_refuses_a_name(data):
    data.name = "mine"
    with pytest.raises(InputError, match=r"data\.name is 'mine'; expected ''"):
        datasets.prepare(data)


def test_checksums_can_be_read():
    """Reading them needs a package that TFDS does not depend on."""
    assert len(tfds.builder_cls("coco_captions").url_infos) > 5
