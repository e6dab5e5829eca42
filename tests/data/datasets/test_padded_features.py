"""Images of different numbers of regions in one padded array."""

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from tests.refusals import assert_refused
from tests.region_files import (
    assert_stored,
    padded,
    ragged,
    read,
    write_captions,
    write_lines,
)
from vse_jax.data import datasets, input_pipeline
from vse_jax.data.text import vocabulary
from vse_jax.errors import InputError
from vse_jax.models import image_encoders

CASES = pathlib.Path(__file__).parents[3] / "../shared/cases/make.py"
COUNTS = (2, 5, 1, 4, 5, 3)
IMAGES = ragged(COUNTS)


def write(root, features=None, counts=None, split="train", ids=None):
    root.mkdir(exist_ok=True)
    features = padded(IMAGES) if features is None else features
    np.save(root / f"{split}_ims.npy", features)
    if counts is not None:
        np.save(root / f"{split}_counts.npy", counts)
    write_captions(root, split, len(features))
    if ids:
        write_lines(root / f"{split}_ids.txt", ids)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "source", counts=np.array(COUNTS))
    return tmp_path / "source"


@pytest.fixture
def data(data):
    data.region_dim = 0
    return data


def test_counted_regions_are_stored(root, data, caplog):
    assert_stored(datasets.prepare(data), IMAGES)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u8"])
def test_counts_of_any_integer(root, data, dtype):
    np.save(root / "train_counts.npy", np.array(COUNTS, dtype))
    assert_stored(datasets.prepare(data), IMAGES)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "<f8"])
def test_byte_orders(root, data, dtype):
    write(root, padded(IMAGES, dtype), np.array(COUNTS))
    images = [image.astype(dtype).astype(np.float32) for image in IMAGES]
    assert_stored(datasets.prepare(data), images)


@pytest.mark.parametrize("per_row", [False, True])
def test_counts_of_the_old_layout(root, data, per_row):
    counts = np.repeat(COUNTS, 5) if per_row else np.array(COUNTS)
    write(root, np.repeat(padded(IMAGES), 5, axis=0), counts)
    write_captions(root, "train", len(IMAGES))
    assert_stored(datasets.prepare(data), IMAGES)


def test_counts_that_differ_within_an_image_are_refused(root, data):
    counts = np.repeat(COUNTS, 5)
    counts[7] -= 1
    write(root, np.repeat(padded(IMAGES), 5, axis=0), counts)
    write_captions(root, "train", len(IMAGES))
    path = root / "train_counts.npy"
    assert_refused(data, path, "rows 5 to 9", "'1'", [5, 5, 4, 5, 5])


@pytest.mark.parametrize("count", [0, -1, 6, 2**63 - 1])
def test_count_that_cannot_be_is_refused(root, data, count):
    write(root, counts=np.array([2, 5, 1, count, 5, 3]), ids=[*"abcdef"])
    path = root / "train_counts.npy"
    assert_refused(data, path, "image 3", "'d'", f"has {count} regions", "1 to 5")


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (np.array(COUNTS, np.float32), ["float32", "expected integers"]),
        (np.array(COUNTS, object), ["object", "expected integers"]),
        (np.array(COUNTS) > 2, ["bool", "expected integers"]),
        (np.array(COUNTS)[:, None], ["[6, 1]", "expected [images]"]),
        (np.array(COUNTS[:5]), ["5 counts", "expected 6"]),
        (np.array([*COUNTS, 1]), ["[7]", "at most 6"]),
    ],
)
def test_counts_that_are_not_of_the_images_are_refused(root, data, counts, words):
    np.save(root / "train_counts.npy", counts, allow_pickle=True)
    assert_refused(data, root / "train_counts.npy", *words)


def test_damaged_counts_are_refused(root, data):
    path = root / "train_counts.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    assert_refused(data, path, "truncated")
    path.write_bytes(b"6")
    assert_refused(data, path, "not a .npy file")


def test_counts_without_regions_are_refused(root, data):
    write(root, padded(IMAGES)[:, 0], np.array(COUNTS))
    assert_refused(data, root / "train_counts.npy", "one feature for each image")


def test_counts_without_features_are_refused(root, data):
    (root / "train_ims.npy").unlink()
    (root / "train_caps.txt").unlink()
    assert_refused(data, root / "train_caps.txt", "is missing", "train_counts.npy")


def test_changed_counts_are_prepared_again(root, data):
    datasets.prepare(data)
    fewer = np.maximum(1, np.array(COUNTS) - 1).astype(np.int32)
    np.save(root / "train_counts.npy", fewer)
    images = [image[:count] for image, count in zip(IMAGES, fewer, strict=True)]
    assert_stored(datasets.prepare(data), images)


def test_values_beyond_the_count_are_not_read_but_reported(root, data, caplog):
    features = padded(IMAGES)
    features[0, 3] = np.nan
    features[3, 4] = 1e9
    write(root, features, np.array(COUNTS), ids=[*"abcdef"])
    assert_stored(datasets.prepare(data), IMAGES)
    assert "2 of 6 images have values other than zero beyond" in caplog.text
    assert "'a'" in caplog.text


# Without counts.


def test_zeros_at_the_end_are_padding_and_reported_once(root, data, caplog):
    (root / "train_counts.npy").unlink()
    write(root, ids=[*"abcdef"])
    assert_stored(datasets.prepare(data), IMAGES)
    [record] = [r for r in caplog.records if r.levelname == "WARNING"]
    message = record.getMessage()
    assert "train_ims.npy: 4 of 6 images end in rows of zeros" in message
    assert "10 rows, such as the last 3 of image id 'a'" in message
    assert "train_counts.npy" in message


def test_zeros_in_between_are_kept_and_reported(root, data, caplog):
    (root / "train_counts.npy").unlink()
    images = ragged([5] * 6)
    images[2][1:3] = 0
    images[4][0] = -0.0
    write(root, padded(images))
    assert_stored(datasets.prepare(data), images)
    assert "2 of 6 images have regions of zeros" in caplog.text
    assert "3 regions, such as 2 of image id '2'" in caplog.text


def test_counted_zeros_are_kept_and_reported(root, data, caplog):
    images = [image.copy() for image in IMAGES]
    images[1][:] = 0
    write(root, padded(images), np.array(COUNTS))
    assert_stored(datasets.prepare(data), images)
    assert "1 of 6 images have regions of zeros (5 regions" in caplog.text


def test_image_of_zeros_is_refused(root, data):
    (root / "train_counts.npy").unlink()
    features = padded(IMAGES)
    features[4] = 0
    write(root, features)
    words = ("row 4", "'4'", "only zeros", "train_counts.npy")
    assert_refused(data, root / "train_ims.npy", *words)


def test_feature_of_zeros_is_refused(root, data):
    (root / "train_counts.npy").unlink()
    features = padded(IMAGES)[:, 0]
    features[4] = 0
    write(root, features)
    assert_refused(data, root / "train_ims.npy", "row 4", "'4'", "only zeros")


def test_values_that_float16_rounds_to_zero_are_refused(root, data):
    features = padded(IMAGES)
    features[3, 2] *= 1e-9
    write(root, features, np.array(COUNTS))
    assert_refused(data, root / "train_ims.npy", "row 3", "'3'", "rounds to zero")


@pytest.mark.parametrize("value", [65504, 65519.9, -65519.9])
def test_largest_values_of_float16(root, data, value):
    features = padded(IMAGES)
    features[1, 2, 3] = value
    write(root, features, np.array(COUNTS))
    stored = read(datasets.prepare(data))[1]["regions"][2, 3]
    assert stored == np.sign(value) * 65504


@pytest.mark.parametrize("value", [65520, -1e30, 1e300])
def test_values_beyond_float16_are_refused(root, data, value):
    features = padded(IMAGES, np.float64)
    features[1, 2, 3] = value
    write(root, features, np.array(COUNTS))
    assert_refused(data, root / "train_ims.npy", "row 1", f"{value:g}", "65504")


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4"])
def test_quantized_features_are_refused(root, data, dtype):
    write(root, padded(IMAGES).astype(dtype), np.array(COUNTS))
    name = np.dtype(dtype).name
    assert_refused(data, root / "train_ims.npy", name, "quantized", "float32")


@pytest.mark.parametrize("dtype", [np.longdouble, "V2", "U3", "datetime64[s]"])
def test_other_types_are_refused(root, data, dtype):
    np.save(root / "train_ims.npy", np.zeros((6, 5, 4), dtype))
    assert_refused(data, root / "train_ims.npy", "holds values of type", "float32")


# Pickled objects.


class Dangerous:
    def __reduce__(self):
        return sys.exit, ("unpickled",)


def hint_of(data):
    with pytest.raises(InputError) as info:
        datasets.prepare(data)
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message, message.partition("this command does both: ")[2]


def test_objects_are_not_unpickled(root, data):
    objects = np.array([Dangerous()] * 6)
    np.save(root / "train_ims.npy", objects, allow_pickle=True)
    message, _ = hint_of(data)
    for word in (root / "train_ims.npy", "train_counts.npy", "[images, most regions"):
        assert str(word) in message
    assert "numpy.stack" not in message


@pytest.mark.parametrize("kind", ["arrays", "lists", "equal"])
def test_advice_for_objects_works(tmp_path, data, kind):
    root = tmp_path / "it's $HOME; a folder"
    data.root = str(root)
    write(root)
    images = ragged([3] * 6) if kind == "equal" else IMAGES
    objects = np.empty(6, object)
    for i, image in enumerate(images):
        objects[i] = image.tolist() if kind == "lists" else image.astype(np.float64)
    if kind == "equal":
        objects = np.array(images).astype(object)
    np.save(root / "train_ims.npy", objects, allow_pickle=True)
    _, command = hint_of(data)
    subprocess.run(command, shell=True, check=True)
    assert_stored(datasets.prepare(data), images)


def test_case_of_boxes_of_different_number(tmp_path, data):
    """The advice mends all splits of a folder of `shared/cases`."""
    if not CASES.exists():
        pytest.skip(f"{CASES} is absent")
    subprocess.run(
        [sys.executable, CASES, tmp_path, "boxes_of_different_number"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    root = tmp_path / "boxes_of_different_number"
    data.root = str(root)
    originals = {
        split: np.load(root / f"{split}_ims.npy", allow_pickle=True)
        for split in ("train", "dev", "test")
    }
    for split in originals:
        message, command = hint_of(data)
        assert str(root / f"{split}_ims.npy") in message
        subprocess.run(command, shell=True, check=True)
    builder = datasets.prepare(data)
    for split, images in originals.items():
        assert {len(image) for image in images} == set(range(2, 11))
        assert_stored(builder, images, split)


# To the batches.


@pytest.fixture
def batches(root, data):
    write(root, padded(IMAGES[:3]), np.array(COUNTS[:3]), split="dev")
    config = common.get_config()
    config.data = data
    config.batch_size, config.evaluation_batch_size = 3, 4
    return config, datasets.prepare(data)


def test_evaluation_batches_are_padded_to_the_split(batches):
    config, builder = batches
    for split, images in (("train", IMAGES), ("dev", IMAGES[:3])):
        expected = padded(images, np.float16)
        got = list(input_pipeline.image_batches(builder, split, config))
        regions = np.concatenate([b["regions"] for b in got])[: len(images)]
        counts = np.concatenate([b["region_count"] for b in got])[: len(images)]
        np.testing.assert_array_equal(regions, expected)
        assert counts.tolist() == [len(image) for image in images]


@pytest.mark.parametrize("augment", [False, True])
def test_training_batches_hold_the_regions_that_exist(batches, augment):
    config, builder = batches
    config.data.augment = augment
    words = vocabulary.Vocabulary(["caption", "of"])
    seen = set()
    plan = input_pipeline.training_plan(builder, words, config)
    for batch in input_pipeline.train_batches(
        builder, config, plan, start_step=0, num_steps=10
    ):
        for image, count, regions in zip(
            batch["image_id"], batch["region_count"], batch["regions"], strict=True
        ):
            source = [row.tobytes() for row in IMAGES[image].astype(np.float16)]
            assert {row.tobytes() for row in regions[:count]} <= set(source)
            assert 1 <= count <= len(source)
            assert augment or count == len(source)
            assert not regions[count:].any()
            seen.add((image, count))
    assert len(seen) > 6 if augment else len(seen) == 6


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.usefixtures("quick_compilation")
def test_padding_does_not_influence_embeddings(root, data, train):
    """The same images, padded to 5 regions, and to 9 because of one more image."""
    more = padded([*IMAGES, *ragged([9], seed=1)])
    write(root, more, np.array([*COUNTS, 9]), split="dev")
    config = common.get_config()
    config.data = data
    config.evaluation_batch_size = len(IMAGES)
    builder = datasets.prepare(data)
    model = image_encoders.ImageEncoder(
        "region_residual", 6, jnp.float32, train, lambda tree: tree
    )
    embedded, statistics = [], []
    for split, regions in (("train", 5), ("dev", 9)):
        batches = input_pipeline.image_batches(builder, split, config)
        batch = next(batches)
        batches.close()
        assert batch["regions"].shape == (6, regions, 4)
        variables = jax.jit(model.init)(jax.random.key(0), batch)
        some, updated = jax.jit(functools.partial(model.apply, mutable="batch_stats"))(
            variables, batch
        )
        embedded.append(some)
        statistics.append(jax.tree.leaves(updated))
    np.testing.assert_allclose(*embedded, atol=1e-6)
    for ours, theirs in zip(*statistics, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
