import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import damaged_npz
from vse_jax.data import identity
from vse_jax.data.identity import DatasetIdentity, SplitIdentity, identity_of


def split(image_ids="abc", images=(1, 2, 3), captions=(4, 5, 6)):
    return SplitIdentity(
        list(image_ids), np.array(images, np.uint64), np.array(captions, np.uint64), 15
    )


def dataset(content="image", **splits):
    return DatasetIdentity(content, {"train": split()} | splits)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"images": (1, 9, 3)}, "train: 1 photo changed, such as b"),
        ({"images": (8, 9, 3)}, "train: 2 photos changed, such as a"),
        ({"captions": (4, 5, 9)}, "train: captions of 1 photo changed, such as c"),
        (
            {"image_ids": "abd"},
            "train: 1 photo missing, such as c; train: 1 photo added, such as d",
        ),
        (
            {"image_ids": "acb", "images": (1, 3, 2), "captions": (4, 6, 5)},
            "train: the images are in another order",
        ),
        (
            {"images": (1, 2, 9), "captions": (9, 5, 6)},
            "train: 1 photo changed, such as c; "
            "train: captions of 1 photo changed, such as a",
        ),
    ],
)
def test_difference_names_what_changed(changed, expected):
    before, now = dataset(), dataset(train=split(**changed))
    assert identity.difference(before.summary(), before, now) == expected


def test_features_are_named_as_such():
    before = dataset("regions")
    now = dataset("regions", train=split(images=(8, 9, 3)))
    changed = identity.difference(before.summary(), before, now)
    assert changed == "train: features of 2 images changed, such as a"


def test_added_and_missing_splits():
    before, now = dataset(dev=split()), dataset(test=split())
    changed = identity.difference(before.summary(), before, now)
    assert changed == "dev: the split is missing; test: the split is new"


def test_records_of_one_picture_are_distinguished():
    before = dataset(train=split(image_ids="aab"))
    now = dataset(train=split(image_ids="aab", images=(1, 9, 3)))
    changed = identity.difference(before.summary(), before, now)
    assert changed == "train: 1 photo changed, such as a"


def test_without_the_details_the_split_is_named():
    now = dataset(train=split(images=(1, 2, 9)))
    summary = json.loads(json.dumps(dataset().summary()))
    changed = identity.difference(summary, None, now)
    assert changed == "the content of train changed"


def test_equal_content_has_no_difference():
    assert identity.difference(dataset().summary(), dataset(), dataset()) is None


def test_bytes_round_trip():
    one = dataset(dev=split(image_ids=["é", "日本.jpg", ""]))
    other = DatasetIdentity.from_bytes(one.to_bytes())
    assert other.summary() == one.summary()
    assert other.splits["dev"].image_ids == ["é", "日本.jpg", ""]
    with pytest.raises(ValueError):  # noqa: PT011
        DatasetIdentity.from_bytes(one.to_bytes()[:-9])


@pytest.mark.parametrize("encoding", ["bytes", "zlib", "none"])
def test_only_the_content_matters(make_builder, encoding, tmp_path):
    """The folder and the encoding of the file do not matter; every value does."""
    content = {"regions": make_builder.region_features(encoding)}
    examples = make_builder.examples(7)
    builder = make_builder(content, train=examples)
    found = identity_of(builder)
    assert found.summary()["splits"]["train"]["images"] == 7
    assert found.summary()["splits"]["train"]["captions"] == 35

    copy = tmp_path / "copy"
    shutil.copytree(builder.data_dir, copy)
    (copy / "identity.npz").unlink()
    copied = identity_of(tfds.builder_from_directory(copy))
    assert copied.digest == found.digest

    shutil.rmtree(builder.data_dir)
    examples[4]["regions"][0, 0] += 1
    examples[5]["captions"][-1] += "!"
    changed = identity_of(make_builder(content, train=examples))
    assert identity.difference(found.summary(), found, changed) == (
        "train: features of 1 image changed, such as image4; "
        "train: captions of 1 image changed, such as image5"
    )


def test_dataset_is_read_once_unless_its_files_change(make_builder, monkeypatch):
    builder = make_builder(train=make_builder.examples(7))
    first = identity_of(builder)
    read_split = identity._read_split
    monkeypatch.setattr(identity, "_read_split", None)
    assert identity_of(builder).digest == first.digest

    monkeypatch.setattr(identity, "_read_split", read_split)
    (path,) = builder.info.splits["train"].filepaths
    os.utime(path, (1, 1))
    assert identity_of(builder).digest == first.digest


@pytest.mark.parametrize("damage", [lambda npz: npz[:-20], *damaged_npz.WAYS])
def test_damaged_cache_is_computed_again(make_builder, caplog, damage):
    builder = make_builder(train=make_builder.examples(7))
    digest = identity_of(builder).digest
    path = pathlib.Path(builder.data_dir) / "identity.npz"
    status, _, npz = path.read_bytes().partition(b"\n")
    path.write_bytes(status + b"\n" + damage(npz))
    assert identity_of(builder).digest == digest
    assert "is damaged" in caplog.text
