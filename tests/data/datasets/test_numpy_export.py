"""Images of different numbers of regions in the files of the PyTorch repositories."""

import numpy as np
import pytest
from etils import epath

from tests.region_files import assert_stored, padded, ragged, read, write_captions
from vse_jax.data import datasets
from vse_jax.data.datasets import numpy_export

COUNTS = {"train": (2, 5, 1, 4, 5, 3), "restval": (7, 2), "val": (4, 4, 4)}
TARGETS = {"train": ("train", "restval"), "dev": ("val",)}


@pytest.fixture
def export(make_builder, tmp_path):
    def run(images):
        examples = {
            split: [
                {"image_id": f"{split}{i}", "captions": ["a", "b"], "regions": regions}
                for i, regions in enumerate(some)
            ]
            for split, some in images.items()
        }
        builder = make_builder({"regions": make_builder.region_features()}, **examples)
        folder = epath.Path(tmp_path / "layout")
        numpy_export.export(builder, folder, dict.fromkeys(TARGETS, 2))
        return tmp_path / "layout"

    return run


def images_of(counts):
    return {
        split: [image.astype(np.float16) for image in ragged(some, dim=8)]
        for split, some in counts.items()
    }


def read_back(folder, data):
    data.root, data.region_dim = str(folder), 8
    return datasets.prepare(data)


def test_counts_are_written_where_they_vary(export, data):
    images = images_of(COUNTS)
    folder = export(images)
    train = images["train"] + images["restval"]
    counts = np.load(folder / "train_counts.npy")
    assert counts.tolist() == [*COUNTS["train"], *COUNTS["restval"]]
    assert counts.dtype.kind == "i"
    np.testing.assert_array_equal(
        np.load(folder / "train_ims.npy"), padded(train, np.float16)
    )
    assert not (folder / "dev_counts.npy").exists()
    np.testing.assert_array_equal(np.load(folder / "dev_ims.npy"), images["val"])
    builder = read_back(folder, data)
    assert_stored(builder, train)
    assert_stored(builder, images["val"], "dev")
    ids = [example["image_id"] for example in read(builder)]
    assert ids == [b"train%d" % i for i in range(6)] + [b"restval0", b"restval1"]


def test_zeros_at_the_end_of_an_image_are_regions(export, data):
    images = images_of({"train": (4, 4)})
    images["train"][1][2:] = 0
    folder = export(images)
    assert np.load(folder / "train_counts.npy").tolist() == [4, 4]
    assert_stored(read_back(folder, data), images["train"])


def test_counts_of_an_earlier_export_are_removed(export, tmp_path):
    (tmp_path / "layout").mkdir()
    np.save(tmp_path / "layout" / "dev_counts.npy", np.array([1, 2, 3]))
    write_captions(tmp_path / "layout", "dev", 3)
    folder = export(images_of(COUNTS))
    assert not (folder / "dev_counts.npy").exists()
