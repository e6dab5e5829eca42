"""Tests COCO's own annotations, which are distinguished from Karpathy's JSON."""

import json

import pytest

from tests.photo_files import drawn, encoded
from tests.refusals import assert_refused
from vse_jax.data import datasets, split_index

PHOTO = encoded(drawn(20, 16))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    return root


@pytest.fixture
def data(data):
    data.builder = "image_folder"
    return data


def content(numbers, captions=2, **changes):
    """Returns content like COCO's, with annotations in another order than photos."""
    images = [
        {"license": 1, "file_name": f"{n:012d}.jpg", "coco_url": "http://x", "id": n}
        for n in numbers
    ]
    annotations = [
        {"image_id": n, "id": 10 * n + k, "caption": f"{k} of {n}.\n"}
        for k in range(captions)
        for n in reversed(numbers)
    ]
    return {"info": {}, "images": images, "annotations": annotations} | changes


def write(root, name, numbers, folder="", **changes):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(content(numbers, **changes)))
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (root / folder / f"{number:012d}.jpg").write_bytes(PHOTO)


def captions(builder):
    found = {}
    for split in builder.info.splits:
        index = split_index.split_index(builder, split)
        found[split] = {
            name: index.captions[slice(*index.caption_offset[i : i + 2])]
            for i, name in enumerate(index.image_ids)
        }
    return found


def expected(numbers):
    return {f"{n:012d}.jpg": [f"0 of {n}.", f"1 of {n}."] for n in numbers}


@pytest.mark.parametrize("folder", ["", "train2017", "images", "images/train2017"])
def test_file_name_determines_the_split(root, data, folder):
    write(root, "captions_train2017.json", [4, 2, 9], folder)
    assert captions(datasets.prepare(data)) == {"train": expected([4, 2, 9])}


@pytest.mark.parametrize("place", ["", "annotations/"])
def test_train_and_val(root, data, place):
    write(root, f"{place}captions_train2017.json", [1, 2], "train2017")
    write(root, f"{place}captions_val2017.json", [3], "val2017")
    assert captions(datasets.prepare(data)) == {
        "train": expected([1, 2]),
        "dev": expected([3]),
    }


def test_file_name_without_a_split_uses_the_hash(root, data):
    write(root, "captions_mine.json", list(range(40)))
    found = captions(datasets.prepare(data))
    assert set(found) == {"train", "dev", "test"}
    assert sum(map(len, found.values())) == 40


def test_refuses_files_of_one_split(root, data):
    for year in (2014, 2017):
        write(root, f"captions_train{year}.json", [year])
    assert_refused(data, "captions_train2014.json", "config.data.annotations")
    data.annotations = "captions_train2017.json"
    assert captions(datasets.prepare(data)) == {"train": expected([2017])}


def test_refuses_additional_captions_files(root, data):
    write(root, "captions_train2017.json", [1])
    (root / "captions.csv").write_text("image,caption\n000000000001.jpg,a\n")
    assert_refused(data, "captions.csv, captions_train2017.json", "annotations")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, ["images[1]", "the id 1"]),
        ({"images": [{"id": 1}, {"id": 2}]}, ["images[0]", "file_name null"]),
        ({"images": [{"file_name": "a.jpg"}]}, ["images[0]", "the id null"]),
        ({"images": 3}, ["no list 'images'"]),
        ({"images": ["x" * 100_000]}, ["images[0] is 'xxx"]),
        ({"annotations": []}, ["no list 'annotations'"]),
        ({"annotations": [{"image_id": 7, "caption": "a"}]}, ["the image_id 7"]),
        (
            {"annotations": [{"image_id": 1, "bbox": []}]},
            ["no 'caption'", "instances_"],
        ),
        ({"annotations": [{"image_id": 1, "caption": " "}]}, ["empty caption"]),
        (
            {"annotations": [{"image_id": 1, "caption": 5}]},
            ["caption that is not a string"],
        ),
        (
            {"annotations": [{"image_id": 1, "caption": "a"}]},
            ["images[1]", "empty cap"],
        ),
    ],
)
def test_refuses_invalid_records(root, data, changes, words):
    write(root, "captions_train2017.json", [1, 2], **changes)
    data.annotations = "captions_train2017.json"
    assert_refused(data, root / "captions_train2017.json", *words)


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"images": "' + "x" * 200_000])
def test_refuses_damaged_json_with_a_short_message(root, data, text):
    (root / "captions_train2017.json").write_text(text)
    message = assert_refused(
        data, root / "captions_train2017.json", "is not valid JSON"
    )
    assert len(message) < 400


def karpathys(root, name):
    images = [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a"}]}]
    (root / name).write_text(json.dumps({"images": images, "dataset": "x" * 10_000}))


def test_names_the_builder_of_karpathys_json(root, data):
    karpathys(root, "dataset_flickr8k.json")
    assert_refused(data, "dataset_flickr8k.json is read", "builder=karpathy_images")
    data.annotations = "dataset_flickr8k.json"
    assert_refused(data, root / data.annotations, "builder=karpathy_images")


def test_names_the_builder_of_cocos_json(root, data):
    data.builder = "karpathy_images"
    write(root, "captions_train2017.json", [1, 2])
    assert_refused(data, "captions_train2017.json is read", "builder=image_folder")
    data.annotations = "captions_train2017.json"
    assert_refused(data, root / data.annotations, "builder=image_folder")
