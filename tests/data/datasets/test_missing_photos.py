"""Absent and invalid photos are counted separately; too many are an error."""

import os

import pytest
from PIL import Image

from tests.photo_files import drawn, encoded
from tests.refusals import assert_refused
from vse_jax.data import datasets
from vse_jax.errors import InputError

PHOTOS = 20


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    for number in range(PHOTOS):
        (root / f"{number}.jpg").write_bytes(encoded(drawn(16, 16, number)))
    rows = "".join(f"{number}.jpg,a dog,train\n" for number in range(PHOTOS))
    (root / "captions.csv").write_text(f"image,caption,split\n{rows}")
    return root


@pytest.fixture
def data(data):
    data.builder = "image_folder"
    return data


def spoil(root, absent=0, invalid=0):
    for number in range(absent):
        (root / f"{number}.jpg").unlink()
    for number in range(absent, absent + invalid):
        (root / f"{number}.jpg").write_bytes(b"%!PS-Adobe")


@pytest.mark.parametrize(("absent", "invalid"), [(1, 0), (0, 1)])
def test_a_few_are_skipped_and_counted(root, data, caplog, absent, invalid):
    spoil(root, absent, invalid)
    builder = datasets.prepare(data)
    assert builder.info.splits["train"].num_examples == 19
    assert ("absent: train 1 of 20" in caplog.text) == bool(absent)
    assert ("cannot be decoded: train 1 of 20" in caplog.text) == bool(invalid)
    data.strict = True
    with pytest.raises(InputError, match=r"train 1\); set config\.data\.strict=False"):
        datasets.prepare(data)


def test_pipe_is_no_photo_and_no_captions_file(root, data, caplog):
    (root / "0.jpg").unlink()
    os.mkfifo(root / "0.jpg")
    datasets.prepare(data)
    assert f"skipping {root / '0.jpg'} (train): it is a pipe; expected" in caplog.text
    (root / "captions.csv").unlink()
    os.mkfifo(root / "captions.csv")
    with pytest.raises(InputError, match=r"captions.csv: cannot be read: it is a pipe"):
        datasets.prepare(data)


@pytest.mark.parametrize(
    ("absent", "invalid", "words"),
    [
        (2, 0, "2 of 20 photos of the split 'train' are absent, such as"),
        (0, 2, "at least 2 of 20 photos of the split 'train' are absent (0) or cannot"),
        (1, 1, "of the split 'train' are absent (1) or cannot be decoded (1), such as"),
    ],
)
def test_many_are_refused_unless_allowed(root, data, absent, invalid, words):
    spoil(root, absent, invalid)
    assert_refused(data, words, "config.data.allowed_missing", f"{root}/")
    data.allowed_missing = 0.1
    builder = datasets.prepare(data)
    assert builder.info.splits["train"].num_examples == 18
    data.allowed_missing = 0.05
    with pytest.raises(InputError, match=r"prepared without 2 of 20 .*'train'"):
        datasets.prepare(data)


def test_none_is_allowed(root, data):
    data.allowed_missing = 0.0
    assert datasets.prepare(data).info.splits["train"].num_examples == PHOTOS


def test_strict_names_the_first(root, data):
    spoil(root, absent=1)
    data.strict = True
    assert_refused(data, f"{root}/0.jpg: it is absent", "config.data.strict=False")


@pytest.mark.parametrize(
    ("option", "value"),
    [("allowed_missing", -0.1), ("allowed_missing", 1.1), ("maximum_pixels", 0)],
)
def test_options_out_of_range(root, data, option, value):
    data[option] = value
    assert_refused(data, f"config.data.{option} is {value}; expected")


def test_larger_photos_need_another_maximum(root, data, caplog):
    (root / "3.jpg").write_bytes(encoded(drawn(40, 40)))
    data.maximum_pixels = 256
    before = Image.MAX_IMAGE_PIXELS
    assert datasets.prepare(data).info.splits["train"].num_examples == 19
    assert before == Image.MAX_IMAGE_PIXELS
    assert "3.jpg (train): it has 40x40 pixels; expected at most 256" in caplog.text
    data.maximum_pixels = 1600
    with pytest.raises(InputError, match=r"maximum_pixels=256.*delete the folder"):
        datasets.prepare(data)


def test_long_and_invalid_names_stay_on_one_line(root, data, caplog):
    long, broken = "x" * 100_000 + ".jpg", "a\nb\t\x1b[31m.jpg"
    with (root / "captions.csv").open("a") as file:
        file.write(f'{long},a,train\n"{broken}",a,train\n')
    data.allowed_missing = 0.1
    datasets.prepare(data)
    lines = [record.getMessage() for record in caplog.records]
    assert all(len(line) < 500 and line.isprintable() for line in lines)
    assert "train 2 of 22" in caplog.text
    data.allowed_missing = 0.0
    data.data_dir += "2"
    assert len(assert_refused(data, "2 of 22 photos")) < 700


def test_a_root_that_is_not_utf8(root, data):
    other = os.fsencode(root.parent) + b"/caf\xe9"
    try:
        os.rename(root, other)
    except OSError:
        pytest.skip("a file system that has UTF-8 names only")
    data.root = os.fsdecode(other)
    first = datasets.prepare(data)
    assert first.info.splits["train"].num_examples == PHOTOS
    assert datasets.prepare(data).data_dir == first.data_dir
    (root.parent / data.root / "5.jpg").unlink()
    assert datasets.prepare(data).data_dir != first.data_dir
