"""Source files in a bucket are prepared as local ones are."""

import json

import numpy as np
import pytest

from tests import object_store, region_files
from tests.photo_files import drawn, encoded
from vse_jax.data import datasets
from vse_jax.data.identity import identity_of
from vse_jax.errors import InputError

h5py = pytest.importorskip("h5py")
IDS = [11, 12, 13]
IMAGES = region_files.ragged((2, 5, 3))


def write_npy(root):
    np.save(root / "train_ims.npy", region_files.padded(IMAGES))
    np.save(root / "train_counts.npy", np.array([len(image) for image in IMAGES]))


def write_tsv(root):
    lines = map(region_files.tsv_line, IDS, IMAGES)
    (root / "train.tsv").write_bytes(b"".join(lines))


def write_hdf5(root):
    with h5py.File(root / "train.h5", "w") as file:
        for image_id, image in zip(IDS, IMAGES, strict=True):
            file[str(image_id)] = image


@pytest.mark.parametrize("write", [write_npy, write_tsv, write_hdf5])
def test_features_in_a_bucket(write, bucket, tmp_path, config):
    root = tmp_path / "root"
    root.mkdir()
    write(root)
    region_files.write_captions(root, "train", len(IMAGES))
    region_files.write_lines(root / "train_ids.txt", IDS)
    config.data.region_dim = 0
    config.data.data_dir = str(tmp_path / "data")
    config.data.root = str(object_store.upload(root, bucket))
    region_files.assert_stored(datasets.prepare(config.data), IMAGES)


NAMES = ["a.jpg", "b c.jpg", "ä%20#.jpg", "D.JPG"]


@pytest.fixture
def photos(tmp_path, config):
    """A folder of photos; `config.data` prepares it locally."""
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    records = []
    for number, name in enumerate(NAMES):
        # Of equal size, so that only its version tells a changed photo.
        (root / "images" / name).write_bytes(encoded(drawn(8, 8, number), "BMP"))
        sentences = [{"raw": f"photo {number}", "tokens": ["photo", str(number)]}]
        records.append({"filename": name, "split": "train", "sentences": sentences})
    records[3]["filename"] = "d.jpg"
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": records}))
    config.data.builder = "karpathy_images"
    config.data.data_dir = str(tmp_path / "data")
    return root


def test_photos_in_a_bucket(photos, bucket, config):
    config.data.root = str(photos)
    local = identity_of(datasets.prepare(config.data))
    config.data.root = str(object_store.upload(photos, bucket))
    config.data.strict = True
    remote = datasets.prepare(config.data)
    assert identity_of(remote).digest == local.digest
    # Opened again without reading a photo.
    assert datasets.prepare(config.data).data_dir == remote.data_dir


def test_changed_photo_of_the_same_name_and_size_is_noticed(photos, bucket, config):
    config.data.root = str(object_store.upload(photos, bucket))
    before = datasets.prepare(config.data)
    path = bucket / "images" / NAMES[0]
    path.write_bytes(encoded(drawn(8, 8, 99), "BMP"))
    after = datasets.prepare(config.data)
    assert after.data_dir != before.data_dir
    assert identity_of(after).digest != identity_of(before).digest


def test_annotations_in_a_bucket(photos, bucket, config):
    (photos / "dataset_flickr8k.json").rename(photos / "captions.json")
    object_store.upload(photos, bucket)
    config.data.root = str(bucket)
    config.data.annotations = str(bucket / "captions.json")
    assert datasets.prepare(config.data).info.splits["train"].num_examples == 4


def test_folder_that_does_not_exist_is_refused(bucket, config):
    config.data.root = str(bucket / "absent")
    with pytest.raises(InputError, match=f"{bucket}/absent: there is no such folder"):
        datasets.prepare(config.data)
