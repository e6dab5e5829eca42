import json
import os
import pathlib

import numpy as np
import pytest

from tests import photo_files
from tests.photo_files import decoded, drawn, encoded
from tests.refusals import assert_refused
from vse_jax.data import datasets, records, split_index
from vse_jax.data.datasets import captioned_images, captioned_photos, karpathy_images
from vse_jax.errors import InputError

SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 2 + ["restval"] * 2


def record(number, split, **changes):
    sentences = [
        {"tokens": ["x"], "raw": f" Caption {c} of {number}.\n", "sentid": c}
        for c in range(number % 3 + 1)
    ]
    return {
        "filename": f"photo{number}.jpg",
        "imgid": number,
        "split": split,
        "sentences": sentences,
    } | changes


def write_json(root, images, name="dataset_tiny.json"):
    content = images if isinstance(images, str) else json.dumps({"images": images})
    (root / name).write_text(content)


@pytest.fixture
def contents():
    return {
        f"photo{i}.jpg": encoded(drawn(20 + i, 30 - i, seed=i))
        for i in range(len(SPLITS))
    }


@pytest.fixture
def images():
    return [record(i, split) for i, split in enumerate(SPLITS)]


@pytest.fixture
def root(tmp_path, contents, images):
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    for name, content in contents.items():
        (root / "images" / name).write_bytes(content)
    write_json(root, images)
    return root


@pytest.fixture
def data(data):
    data.builder = "karpathy_images"
    return data


def raw_images(builder, split):
    """Returns the stored, encoded photos by image_id."""
    content = records.content_of(builder)
    reader = records.RecordReader(builder, split)
    serialized = reader.read(np.arange(len(reader)))
    index = split_index.split_index(builder, split)
    photos = records.parse_encoded(content, serialized).numpy()
    return dict(zip(index.image_ids, photos, strict=True))


def test_records_are_the_photos_in_their_order(root, data, contents):
    builder = datasets.prepare(data)
    assert list(builder.info.splits) == ["train", "restval", "val", "test"]
    for split in builder.info.splits:
        numbers = [i for i, name in enumerate(SPLITS) if name == split]
        index = split_index.split_index(builder, split)
        assert index.image_ids == [f"photo{i}.jpg" for i in numbers]
        assert index.captions == [
            f"Caption {c} of {i}." for i in numbers for c in range(i % 3 + 1)
        ]
        stored = raw_images(builder, split)
        assert stored == {name: contents[name] for name in index.image_ids}


def test_sum_of_splits(root, data):
    builder = datasets.prepare(data)
    index = split_index.split_index(builder, "train+restval")
    numbers = [0, 1, 2, 3, 4, 5, 10, 11]
    assert index.image_ids == [f"photo{i}.jpg" for i in numbers]
    assert len(raw_images(builder, "train+restval")) == 8
    for split, word in (("train+dev", "'dev'"), ("train+train", "repeats")):
        with pytest.raises(InputError, match=word):
            split_index.split_index(builder, split)


@pytest.mark.parametrize("place", ["", "val2014/", "images/val2014/"])
def test_places_of_photos(root, data, images, contents, place):
    if place:
        write_json(root, [image | {"filepath": "val2014"} for image in images])
    (root / place).mkdir(exist_ok=True)
    for name in contents:
        (root / "images" / name).rename(root / place / name)
    assert len(raw_images(datasets.prepare(data), "train")) == 6


def test_order_is_kept_over_shards(root, data, monkeypatch, contents):
    size = len(contents["photo0.jpg"])
    monkeypatch.setattr(captioned_images, "_SHARD_BYTES", 2 * size)
    builder = datasets.prepare(data)
    assert builder.info.splits["train"].num_shards >= 3
    assert list(raw_images(builder, "train")) == [f"photo{i}.jpg" for i in range(6)]


def test_skipped_photos_are_named_and_counted(root, data, caplog):
    data.allowed_missing = 0.5
    for number, content in ((1, b"no photo"), (2, None), (7, b"")):
        path = root / "images" / f"photo{number}.jpg"
        path.unlink() if content is None else path.write_bytes(content)
    with caplog.at_level("INFO"):
        builder = datasets.prepare(data)
    assert (
        f"skipping {root / 'images/photo1.jpg'} (train): it is not an image"
        in caplog.text
    )
    assert "photo2.jpg (train): it is absent, but dataset_tiny.json" in caplog.text
    assert "photos that are absent: train 1 of 6\n" in caplog.text
    assert "cannot be decoded: train 1 of 6, val 1 of 2\n" in caplog.text
    assert list(raw_images(builder, "train")) == [f"photo{i}.jpg" for i in (0, 3, 4, 5)]
    assert list(raw_images(builder, "val")) == ["photo6.jpg"]
    data.strict = True
    with pytest.raises(
        InputError, match=r"train 2, restval 0, val 1.*data\.strict=False"
    ):
        datasets.prepare(data)


def test_only_the_first_skipped_photos_are_named(root, data, caplog, monkeypatch):
    monkeypatch.setattr(captioned_photos, "_NAMED", 2)
    data.allowed_missing = 0.9
    for number in range(5):
        (root / "images" / f"photo{number}.jpg").write_bytes(b"")
    datasets.prepare(data)
    assert caplog.text.count("skipping /") == 2
    assert "train 5 of 6" in caplog.text


def test_shard_of_only_skipped_photos(root, data, monkeypatch, contents):
    monkeypatch.setattr(captioned_images, "_SHARD_BYTES", 1)  # one photo per shard
    data.allowed_missing = 0.2
    (root / "images" / "photo2.jpg").write_bytes(b"x" * 500)
    builder = datasets.prepare(data)
    left = [f"photo{i}.jpg" for i in (0, 1, 3, 4, 5)]
    assert list(raw_images(builder, "train")) == left
    assert list(raw_images(datasets.prepare(data), "train")) == left


@pytest.mark.parametrize("content", [b"no photo", None])
def test_strict_refuses_a_photo(root, data, content):
    path = root / "images" / "photo4.jpg"
    path.unlink() if content is None else path.write_bytes(content)
    data.strict = True
    assert_refused(data, path, "data.strict=False")


def test_refuses_a_split_without_any_photo_left(root, data):
    data.allowed_missing = 1.0
    for number in (6, 7):
        (root / "images" / f"photo{number}.jpg").write_bytes(b"no photo")
    assert_refused(data, root, "none of the 2 photos", "'val'")


def test_refuses_a_folder_without_any_of_the_photos(root, data):
    for path in (root / "images").iterdir():
        path.unlink()
    assert_refused(data, root, "none of the photos", "photo0.jpg", "data.root")


@pytest.mark.parametrize("change", ["json", "photo", "photo added"])
def test_changed_source_is_prepared_again(root, data, images, contents, change):
    if change == "photo added":
        data.allowed_missing = 0.2
        (root / "images" / "photo0.jpg").unlink()
    first = datasets.prepare(data)
    before = list(pathlib.Path(data.data_dir).rglob("*.array_record*"))
    stamps = [path.stat().st_mtime_ns for path in before]
    datasets.prepare(data)
    assert stamps == [path.stat().st_mtime_ns for path in before]
    if change == "json":
        write_json(root, images[:-1])
    else:
        (root / "images" / "photo0.jpg").write_bytes(contents["photo1.jpg"])
    builder = datasets.prepare(data)
    assert builder.data_dir != first.data_dir
    if change == "json":
        assert list(raw_images(builder, "restval")) == ["photo10.jpg"]
    else:
        stored = raw_images(builder, "train")
        assert stored["photo0.jpg"] == contents["photo1.jpg"]


def test_prepared_data_needs_no_source(root, data):
    data.name = "mine"
    datasets.prepare(data)
    root.rename(root.parent / "elsewhere")
    assert len(raw_images(datasets.prepare(data), "train")) == 6


def test_interrupted_preparation_is_repeated(root, data, monkeypatch, tmp_path):
    monkeypatch.setattr(captioned_images, "_SHARD_BYTES", 1)
    whole = datasets.prepare(data)
    data.data_dir = str(tmp_path / "interrupted")
    to_stored = captioned_photos.photos.to_stored

    def interrupted(content, maximum_pixels, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return to_stored(content, maximum_pixels)

    monkeypatch.setattr(captioned_photos.photos, "to_stored", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets.prepare(data)
    assert not list(pathlib.Path(data.data_dir).rglob("dataset_info.json"))
    monkeypatch.setattr(captioned_photos.photos, "to_stored", to_stored)
    again = datasets.prepare(data)
    for split in whole.info.splits:
        readers = [records.RecordReader(b, split) for b in (whole, again)]
        numbers = np.arange(len(readers[0]))
        assert readers[0].read(numbers).tolist() == readers[1].read(numbers).tolist()
    assert not list(pathlib.Path(data.data_dir).rglob("incomplete.*"))


def test_annotations_choose_the_json(root, data, images):
    write_json(root, images[:3], "dataset_other.json")
    assert_refused(data, root, "dataset_other.json, dataset_tiny.json", "annotations")
    data.annotations = "dataset_other.json"
    first = datasets.prepare(data)
    assert len(raw_images(first, "train")) == 3
    data.annotations = str(root / "dataset_tiny.json")
    second = datasets.prepare(data)
    assert len(raw_images(second, "train")) == 6
    assert first.data_dir != second.data_dir
    data.annotations = "absent.json"
    with pytest.raises(InputError, match=r"data\.annotations: there is no file"):
        datasets.prepare(data)


def test_refuses_a_folder_without_json(root, data):
    (root / "dataset_tiny.json").unlink()
    assert_refused(data, root, "dataset_*.json", "none", "data.annotations")
    data.root = ""
    assert_refused(data, "data.root is not set")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is not valid JSON"]),
        ('{"images": [', ["is not valid JSON"]),
        ("[" * 100_000, ["is not valid JSON"]),
        ("[]", ["no list 'images'"]),
        ('{"annotations": []}', ["COCO's own", "builder=image_folder"]),
        ('{"images": []}', ["no list 'images'"]),
        ('{"images": [3]}', ["images[0] is 3"]),
        ([record(0, "train"), record(1, "dev")], ["images[1]", "'dev'", "restval"]),
        ([record(0, "train", filename=7)], ["images[0]", "filename 7"]),
        ([record(0, "train", filename="../a.jpg")], ["images[0]", "../a.jpg"]),
        ([record(0, "train", filepath=None)], ["images[0]", "filepath null"]),
        ([record(0, "train", sentences=[])], ["images[0]", "no sentences"]),
        ([record(0, "train", sentences="a")], ["images[0]", "no sentences"]),
        ([record(0, "train", sentences=["a"])], ["['sentences'][0]", "'a'"]),
        ([record(0, "train", sentences=[{"raw": " "}])], ["['sentences'][0]", "raw"]),
        ([record(0, "train", sentences=[{}])], ["['sentences'][0]", "no 'raw'"]),
        ([record(0, "train", sentences=[{"raw": "\ud83d"}])], ["raw with half a char"]),
        ([record(0, "train", sentences=[{"raw": "a\0"}])], ["NUL in its raw"]),
        ([record(0, "train", filename="\udc00.jpg")], ["filename with half a char"]),
        ([record(0, "train"), record(0, "val")], ["images[1]", "images[0]"]),
    ],
)
def test_refuses_json_that_is_not_karpathys(root, data, content, words):
    write_json(root, content)
    assert_refused(data, root / "dataset_tiny.json", *words)


def test_refuses_a_broken_link(root, data):
    (root / "dataset_tiny.json").unlink(missing_ok=True)
    (root / "dataset_tiny.json").symlink_to("elsewhere")
    assert_refused(data, f"{root / 'dataset_tiny.json'}: is a broken link")


@pytest.mark.parametrize("key", ["filename", "split", "sentences"])
def test_refuses_a_record_without_a_key(root, data, images, key):
    del images[3][key]
    write_json(root, images)
    assert_refused(data, "images[3]", key)


def test_refuses_json_that_is_not_utf8(root, data):
    (root / "dataset_tiny.json").write_bytes(b'{"images": "caf\xe9"}')
    assert_refused(data, root / "dataset_tiny.json", "UTF-8")


def test_real_photos(tmp_path, data):
    """The first photos of Flickr8k are stored as they are, and can be decoded."""
    source = photo_files.flickr8k()
    listed = json.loads((source / "dataset_flickr8k.json").read_text())["images"]
    some = listed[:60] + [image for image in listed if image["split"] == "val"][:20]
    some = list({image["filename"]: image for image in some}.values())
    root = tmp_path / "source"
    root.mkdir()
    write_json(root, some)
    os.symlink(source / "images", root / "images")
    builder = datasets.prepare(data)
    stored = raw_images(builder, "train") | raw_images(builder, "val")
    assert len(stored) == len(some)
    for name, content in stored.items():
        assert content == (source / "images" / name).read_bytes()
        assert decoded(content).shape[2] == 3
    splits = karpathy_images.read_json(source / "dataset_flickr8k.json")
    assert {name: len(listed) for name, listed in splits.items()} == {
        "train": 5997,
        "val": 1000,
    }
