"""Tests inputs from ../shared/cases that were read wrongly before."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vse_jax.data import datasets, records, split_index
from vse_jax.errors import InputError

_MAKE = pathlib.Path(__file__).parents[4] / "shared" / "cases" / "make.py"
_SPLITS = {"train": 24, "dev": 8, "test": 8}

pytestmark = pytest.mark.skipif(
    not _MAKE.exists(), reason="no ../shared/cases/make.py beside the repository"
)


@pytest.fixture
def data(data):
    data.builder = "image_folder"
    return data


@pytest.fixture
def draw(data, tmp_path):
    """Returns a function that draws an input by name and sets it as the root."""

    def draw(name):
        command = [sys.executable, _MAKE, tmp_path, name]
        subprocess.run(command, check=True, capture_output=True)
        data.root = str(tmp_path / name)
        return tmp_path / name

    return draw


def contents(builder):
    """Returns the captions of all splits by photo."""
    found = {}
    for split in builder.info.splits:
        index = split_index.split_index(builder, split)
        found |= {
            name: index.captions[slice(*index.caption_offset[i : i + 2])]
            for i, name in enumerate(index.image_ids)
        }
    return found


def pixels(builder, split):
    reader = records.RecordReader(builder, split)
    content = records.content_of(builder)
    decoded = records.decode_each(content, reader.read(np.arange(len(reader))))
    return [array.astype(int) for array in decoded]


@pytest.mark.parametrize(
    "name",
    [
        "repeated_column",
        "utf16_csv",
        "semicolons",
        "hugging_face_metadata",
        "decomposed_names",
        "other_case",
        "absolute_paths",
    ],
)
def test_is_read_completely(draw, data, name):
    root = draw(name)
    builder = datasets.prepare(data)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert counts == _SPLITS
    found = contents(builder)
    assert [len(captions) for captions in found.values()] == [2] * 40
    text = next(root.glob("*.csv")).read_bytes()
    text = text.decode("utf-16" if name == "utf16_csv" else "utf-8")
    for captions in found.values():
        assert all(caption in text for caption in captions)
    photos = sorted(root.glob("p*0.*"))
    with Image.open(photos[0]) as image:
        assert np.abs(pixels(builder, "train")[0] - np.asarray(image)).max() < 12


def test_kaggles_flickr30k(draw, data, caplog):
    root = draw("kaggle_flickr30k")
    found = contents(datasets.prepare(data))
    assert [len(captions) for captions in found.values()] == [2] * 40
    path = root / "results.csv"
    lines = path.read_text().splitlines()
    lines[6] = "p002.jpg| 1   a dog without its separator"
    path.write_text("\n".join(lines) + "\n")
    found = contents(datasets.prepare(data))
    assert sum(map(len, found.values())) == 79
    assert f"{path}: line 7 has 2 fields; expected 3; skipped" in caplog.text
    assert "skipped 1 of 80 rows" in caplog.text
    data.strict = True
    with pytest.raises(InputError, match="line 7 has 2 fields"):
        datasets.prepare(data)


def test_cocos_annotations(draw, data):
    root = draw("coco_captions_json")
    listed = json.loads((root / "captions_train2017.json").read_text())
    expected = {image["file_name"]: [] for image in listed["images"]}
    for annotation in listed["annotations"]:
        expected[f"{annotation['image_id']:012d}.jpg"].append(annotation["caption"])
    builder = datasets.prepare(data)
    assert contents(builder) == expected
    assert list(builder.info.splits) == ["train"]


def test_postscript_is_skipped_by_name(draw, data, caplog):
    root = draw("postscript_as_jpeg")
    builder = datasets.prepare(data)
    assert builder.info.splits["train"].num_examples == 23
    assert f"skipping {root / 'p006.jpg'} (train): it is PostScript" in caplog.text
    data.strict, data.data_dir = True, data.data_dir + "2"
    with pytest.raises(InputError, match=r"p006\.jpg: .*it is PostScript"):
        datasets.prepare(data)


def test_float_tiff_is_scaled(draw, data):
    root = draw("float_tiff")
    with Image.open(root / "p005.jpg") as image:
        expected = 255 * np.asarray(image)
    found = pixels(datasets.prepare(data), "train")[5]
    assert np.abs(found - expected[:, :, None]).max() < 12
