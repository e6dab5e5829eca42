"""Region features in HDF5 files."""

import sys

import h5py
import numpy as np
import pytest

from tests.refusals import assert_refused
from tests.region_files import (
    assert_stored,
    padded,
    ragged,
    read,
    tsv_line,
    write_captions,
    write_lines,
)
from vse_jax.data import datasets
from vse_jax.data.datasets import feature_array

COUNTS = (2, 5, 1, 4, 5, 3)
IMAGES = ragged(COUNTS)
IDS = ["b.jpg", "a.jpg", "f", "17", "e", "ü"]
ORDER = (3, 0, 5, 2, 1, 4)  # of the captions


@pytest.fixture
def data(data):
    data.region_dim = 0
    return data


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write_captions(folder, "train", len(IMAGES))
    return folder


def write(path, **datasets_):
    with h5py.File(path, "w") as file:
        for name, value in datasets_.items():
            file[name] = value


def write_ids(root, split="train", order=ORDER):
    write_lines(root / f"{split}_ids.txt", [IDS[i] for i in order])


def in_order(order=ORDER):
    return [IMAGES[i] for i in order]


# One array of all images.


@pytest.mark.parametrize("ending", ["h5", "hdf5"])
@pytest.mark.parametrize("features", ["features", "image_features"])
@pytest.mark.parametrize("counts", ["num_boxes", "counts"])
def test_array_in_the_order_of_the_captions(root, data, ending, features, counts):
    path = root / f"train.{ending}"
    write(path, **{features: padded(IMAGES), counts: np.array(COUNTS)[:, None]})
    builder = datasets.prepare(data)
    assert_stored(builder, IMAGES)
    assert [e["image_id"] for e in read(builder)] == [b"%d" % i for i in range(6)]


@pytest.mark.parametrize("dtype", [">f2", "<f4", ">f4", "<f8", ">f8"])
def test_types_and_chunks(root, data, monkeypatch, dtype):
    monkeypatch.setattr(feature_array, "CHUNK_BYTES", 200)
    with h5py.File(root / "train.h5", "w") as file:
        array = padded(IMAGES).astype(dtype)
        file.create_dataset("features", data=array, chunks=(4, 1, 3), compression=4)
        file["num_boxes"] = np.array(COUNTS, ">u2")
    images = [image.astype(dtype).astype(np.float32) for image in IMAGES]
    assert_stored(datasets.prepare(data), images)


def test_counts_in_a_file_of_their_own(root, data):
    write(root / "train.h5", features=padded(IMAGES))
    np.save(root / "train_counts.npy", np.array(COUNTS))
    assert_stored(datasets.prepare(data), IMAGES)


def test_zeros_are_padding_without_counts(root, data, caplog):
    write(root / "train.h5", features=padded(IMAGES))
    assert_stored(datasets.prepare(data), IMAGES)
    assert "train.h5: 4 of 6 images end in rows of zeros (10 rows" in caplog.text


def test_old_layout_of_five_rows(root, data):
    features = np.repeat(padded(IMAGES), 5, axis=0)
    write(root / "train.h5", features=features, num_boxes=np.repeat(COUNTS, 5))
    assert_stored(datasets.prepare(data), IMAGES)


def test_one_feature_for_each_image(root, data):
    features = padded(IMAGES)[:, 0]
    write(root / "train.h5", features=features)
    stored = [example["feature"] for example in read(datasets.prepare(data))]
    np.testing.assert_array_equal(stored, features)
    assert stored[0].dtype == np.float32


@pytest.mark.parametrize("kind", ["S", "O", "i8"])
def test_ids_of_the_file_name_the_images(root, data, kind):
    ids = np.array([3, 1, 4, 5, 9, 2])
    stored = {"S": ids.astype("S"), "O": ids.astype(str).astype(object), "i8": ids}
    write(root / "train.h5", features=np.stack(ragged([3] * 6)), image_ids=stored[kind])
    examples = read(datasets.prepare(data))
    assert [e["image_id"] for e in examples] == [b"3", b"1", b"4", b"5", b"9", b"2"]


@pytest.mark.parametrize("name", ["train.h5", "trainval36.hdf5"])
def test_rows_are_found_by_ids(root, data, name):
    write_ids(root)
    write(
        root / name, features=padded(IMAGES), num_boxes=np.array(COUNTS), image_ids=IDS
    )
    builder = datasets.prepare(data)
    assert_stored(builder, in_order())
    assert [e["image_id"].decode() for e in read(builder)] == [IDS[i] for i in ORDER]


def test_one_file_serves_all_splits(root, data):
    write_ids(root)
    write_ids(root, "dev", (2, 3, 4))
    write_captions(root, "dev", 3)
    write(root / "all.h5", features=padded(IMAGES), counts=COUNTS, image_id=IDS)
    builder = datasets.prepare(data)
    assert_stored(builder, in_order())
    assert_stored(builder, IMAGES[2:5], "dev")


def test_changed_file_is_prepared_again(root, data):
    write(root / "train.h5", features=padded(IMAGES), counts=COUNTS)
    datasets.prepare(data)
    images = [image + 1 for image in IMAGES]
    write(root / "train.h5", features=padded(images), counts=COUNTS, more=[1])
    assert_stored(datasets.prepare(data), images)


# One array per image.

FORMS = {
    "dataset": "{}",
    "group": "{}/features",
    "suffix": "{}_features",
    "below": "features/{}",
    "group below": "features/{}/features",
}


def per_image(form, images=IMAGES, ids=IDS):
    pairs = zip(ids, images, strict=True)
    return {FORMS[form].format(i): image for i, image in pairs}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["train.h5", "coco_detections.hdf5"])
def test_array_per_image(root, data, form, name):
    write_ids(root)
    boxes = {f"{i}_boxes": np.zeros((3, 4), np.float32) for i in IDS}
    write(root / name, **per_image(form), **boxes)
    builder = datasets.prepare(data)
    assert_stored(builder, in_order())
    assert [e["image_id"].decode() for e in read(builder)] == [IDS[i] for i in ORDER]


def test_feature_per_image(root, data):
    write_ids(root)
    features = [image[0].astype(np.float64) for image in IMAGES]
    write(root / "train.h5", **per_image("dataset", features))
    stored = [example["feature"] for example in read(datasets.prepare(data))]
    np.testing.assert_array_equal(stored, [IMAGES[i][0] for i in ORDER])


def test_zero_regions_of_an_image_are_kept(root, data, caplog):
    write_ids(root)
    images = [image.copy() for image in IMAGES]
    images[1][3:] = 0
    write(root / "train.h5", **per_image("dataset", images))
    assert_stored(datasets.prepare(data), [images[i] for i in ORDER])
    assert "1 of 6 images have regions of zeros (2 regions, such as 2" in caplog.text


# What is refused.


def test_package_is_named(root, data, monkeypatch):
    write(root / "train.h5", features=padded(IMAGES))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert_refused(data, root / "train.h5", "pip install h5py")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(90)])
def test_other_files_are_refused(root, data, content):
    (root / "train.h5").write_bytes(content)
    assert_refused(data, root / "train.h5", "cannot be read as HDF5")


def test_truncated_file_is_refused(root, data):
    write(root / "train.h5", features=padded(IMAGES))
    content = (root / "train.h5").read_bytes()
    (root / "train.h5").write_bytes(content[:-100])
    assert_refused(data, root / "train.h5", "truncated")


def test_damaged_values_are_refused(root, data):
    array = padded(IMAGES)
    with h5py.File(root / "train.h5", "w") as file:
        file.create_dataset("features", data=array, chunks=array.shape, fletcher32=True)
    content = bytearray((root / "train.h5").read_bytes())
    place = content.index(array[0, 0].tobytes())
    content[place] ^= 1
    (root / "train.h5").write_bytes(content)
    assert_refused(data, root / "train.h5", "cannot be read as HDF5")


def regions(**others):
    return {"features": padded(IMAGES), "num_boxes": np.array(COUNTS)} | others


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (regions(features=np.zeros((6, 5, 4), np.uint8)), ["uint8", "quantized"]),
        (regions(features=np.ones((6, 5, 4, 1), "f4")), ["[6, 5, 4, 1]", "features'"]),
        (regions(features=np.ones((0, 5, 4), "f4")), ["is empty"]),
        (regions(features=["a"] * 6), ["type object"]),
        (regions(num_boxes=[2, 5, 1, 6, 5, 3]), ["num_boxes", "image 3", "6 regions"]),
        (regions(num_boxes=[2, 5, 1, 0, 5, 3]), ["num_boxes", "image 3", "0 regions"]),
        (regions(num_boxes=[2.0] * 6), ["num_boxes", "float64", "integers"]),
        (regions(num_boxes=COUNTS[:5]), ["num_boxes", "[5]", "[6]"]),
        (regions(counts=COUNTS), ["'num_boxes'", "'counts'"]),
        (regions(image_features=[1.0]), ["'features'", "'image_features'"]),
        (regions(image_ids=[1.5] * 6), ["image_ids", "float64"]),
        (regions(image_ids=IDS[:5]), ["image_ids", "[5]", "[6]"]),
        (regions(pos_boxes=np.zeros((6, 2), int)), ["pos_boxes", "num_boxes"]),
    ],
)
def test_wrong_arrays_are_refused(root, data, content, words):
    write(root / "train.h5", **content)
    assert_refused(data, root / "train.h5", *words)


def test_value_is_named_with_its_row(root, data):
    write_ids(root)
    images = [image.copy() for image in IMAGES]
    images[3][1, 2] = np.nan
    features = padded(images)
    write(root / "train.h5", features=features, counts=COUNTS, image_ids=IDS)
    assert_refused(
        data, "'/features' row 3 (from 0; image id '17') holds nan at [1, 2]"
    )
    write(root / "train.h5", **per_image("group", images))
    assert_refused(data, "'/17/features' (image id '17') holds nan at [1, 2]")


def test_two_counts_are_refused(root, data):
    write(root / "train.h5", **regions())
    np.save(root / "train_counts.npy", np.array(COUNTS))
    assert_refused(data, root / "train_counts.npy", "num_boxes", "remove the file")
    write_ids(root)
    write(root / "train.h5", **per_image("dataset"))
    assert_refused(data, root / "train_counts.npy", "train.h5", "remove the file")


@pytest.mark.parametrize("kind", ["array", "images"])
def test_absent_image_is_refused(root, data, kind):
    write_lines(root / "train_ids.txt", ["b.jpg", "a.jpg", "c.jpg", "17", "e", "g"])
    content = regions(image_ids=IDS) if kind == "array" else per_image("group")
    write(root / "train.h5", **content)
    words = ("line 3", "'c.jpg'", "train.h5", "2 of 6")
    assert_refused(data, root / "train_ids.txt", *words)


def test_repeated_id_is_refused(root, data):
    write_ids(root)
    write(root / "train.h5", **regions(image_ids=[*IDS[:5], IDS[1]]))
    assert_refused(data, root / "train.h5", "'a.jpg'", "rows 1 and 5")


def test_missing_ids_are_refused(root, data):
    write(root / "train.h5", **per_image("dataset"))
    assert_refused(data, root / "train_ids.txt", "is missing", "train.h5")
    (root / "train.h5").unlink()
    write(root / "all.h5", **regions(image_ids=IDS))
    assert_refused(data, root / "train_ids.txt", "is missing", "all.h5")
    write(root / "all.h5", **regions())
    assert_refused(data, root / "all.h5", "no image_ids", "train.h5")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 5), "f4"), ["[3, 5]", "[4, 4]", "same rank and dim"]),
        (np.zeros(4, "f4"), ["[4]", "same rank and dim"]),
        (np.zeros((0, 4), "f4"), ["[0, 4]", "at least one region"]),
        (np.zeros((1, 2, 4), "f4"), ["[1, 2, 4]"]),
        (np.zeros((2, 4), "i1"), ["int8", "quantized"]),
        (h5py.Empty("f4"), ["the shape []"]),
    ],
)
def test_wrong_array_of_an_image_is_refused(root, data, image, words):
    write_ids(root)
    images = [*IMAGES[:4], image, IMAGES[5]]
    write(root / "train.h5", **per_image("dataset", images))
    assert_refused(data, f"{root / 'train.h5'}: '/e'", *words)


@pytest.mark.parametrize("kind", ["link", "raw", "virtual", "soft"])
def test_other_files_are_not_opened(root, tmp_path, data, kind):
    """A file of others could name any file of this machine."""
    other = tmp_path / "other.h5"
    array = np.stack(ragged([3] * 6))
    write(other, features=array)
    with h5py.File(root / "train.h5", "w") as file:
        if kind == "link":
            file["features"] = h5py.ExternalLink(str(other), "features")
        elif kind == "soft":
            file["elsewhere"] = h5py.ExternalLink(str(other), "/")
            file["features"] = h5py.SoftLink("/elsewhere/features")
        elif kind == "raw":
            external = [(str(other), 0, array.nbytes)]
            file.create_dataset("features", array.shape, "f4", external=external)
        else:
            layout = h5py.VirtualLayout(array.shape, "f4")
            layout[:] = h5py.VirtualSource(str(other), "features", array.shape)
            file.create_virtual_dataset("features", layout)
    assert_refused(data, root / "train.h5", "in another file")


def test_two_forms_are_refused(root, data):
    write(root / "train.h5", **regions())
    write(root / "train.hdf5", **regions())
    assert_refused(data, root, "'train'", "train.h5", "train.hdf5")
    (root / "train.h5").rename(root / "all.h5")
    (root / "train.hdf5").unlink()
    (root / "all.tsv").write_bytes(tsv_line(1, IMAGES[0]))
    assert_refused(data, root, "'train'", "all.tsv", "all.h5", "after its split")
