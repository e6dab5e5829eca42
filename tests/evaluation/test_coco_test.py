import importlib.util
import logging
import types

import numpy as np
import pytest

from tests.evaluation.coco_stand_in import PER_IMAGE, CocoStandIn
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test
from vse_jax.evaluation.embedder import Embeddings


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = CocoStandIn(tmp_path, images=7)
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    return stand_in


def index_of(image_ids, caption_counts):
    """An index of images with captions such as `3: 1`, the second of image 3."""
    captions = [
        f"{name}: {number}"
        for name, count in zip(image_ids, caption_counts, strict=True)
        for number in range(count)
    ]
    image_id = np.arange(len(image_ids))
    return types.SimpleNamespace(
        image_ids=image_ids,
        image_id=image_id,
        image_count=len(image_ids),
        image_id_of=lambda record: image_ids[record],
        captions=captions,
        caption_counts=np.array(caption_counts),
        caption_offset=np.concatenate([[0], np.cumsum(caption_counts)]),
    )


def locate(coco, image_ids, caption_counts=None):
    index = index_of(image_ids, caption_counts or [PER_IMAGE] * len(image_ids))
    return index, coco_test.locate(coco, index, "testall", "cxc")


def test_numbers_are_those_of_the_files(stand_in):
    found = coco_test.read()
    for name in ("image_id", "caption_id", "image"):
        expected = getattr(stand_in.coco, name)
        np.testing.assert_array_equal(getattr(found, name), expected)
    assert [found.caption_row[number] for number in found.caption_id] == list(range(35))


@pytest.mark.parametrize(
    "name",
    ["{}", "COCO_val2014_{:012}.jpg", "val2014/{:012}.jpg", "test_{:06}", "{:06}.png"],
)
def test_images_are_found_by_number_in_any_order(stand_in, name):
    order = np.random.default_rng(0).permutation(7)
    image_ids = [name.format(number) for number in order.tolist()]
    index, rows = locate(stand_in.coco, image_ids, [5, 6, 5, 7, 5, 5, 5])
    coco = stand_in.coco
    assert [image_ids[row] for row in rows.images] == [
        name.format(number) for number in coco.image_id.tolist()
    ]
    assert [index.captions[row] for row in rows.captions] == [
        f"{name.format(number // 100 - 1)}: {number % 100}"
        for number in coco.caption_id.tolist()
    ]


def test_embeddings_take_the_order_of_the_ground_truth():
    rows = coco_test.Rows(np.array([2, 0]), np.array([1, 3]))
    images, captions = np.arange(6).reshape(3, 2), np.arange(8).reshape(4, 2)
    taken = rows.of(Embeddings(images, captions))
    assert taken.images.tolist() == [[4, 5], [0, 1]]
    assert taken.captions.tolist() == [[2, 3], [6, 7]]
    several = rows.of(Embeddings(np.stack([images] * 3), np.stack([captions] * 3)))
    assert several.images.shape == several.captions.shape == (3, 2, 2)
    np.testing.assert_array_equal(several.captions[2], taken.captions)


@pytest.mark.parametrize(
    ("image_ids", "counts", "words"),
    [
        ([*"012345", "8"], None, "'testall' has the image '8', which is none of them"),
        ([*"012345", "a photo"], None, "has the image 'a photo'"),
        ([*"01235"], None, "lacks 2 of them, such as 4"),
        ([*"0123456", "06"], None, "has some of them repeatedly"),
        ([*"0123456"], [5, 5, 5, 5, 4, 5, 5], "the image '4' of the split 'testall'"),
    ],
)
def test_other_splits_are_refused(stand_in, image_ids, counts, words):
    with pytest.raises(InputError, match=r"suite is 'cxc'") as info:
        locate(stand_in.coco, image_ids, counts)
    assert words in str(info.value)
    assert "\n" not in str(info.value)


def test_other_texts_are_reported(stand_in, caplog, monkeypatch):
    image_ids = [*"0123456"]
    with caplog.at_level(logging.WARNING):
        index, rows = locate(stand_in.coco, image_ids)
    assert "captions of the split 'testall' differ from COCO's" in caplog.text
    letters = "\n".join(index.captions[row].replace(": ", "") for row in rows.captions)
    digest = coco_test.hashlib.sha256(letters.encode()).hexdigest()[:32]
    monkeypatch.setattr(coco_test, "_TEXT_DIGEST", digest)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        locate(stand_in.coco, image_ids)
    assert not caplog.records


def test_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install eccv-caption==0\.1\.0$"):
        coco_test.read()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("coco_test_ids.npy", b"\x93NUMPY"),
        ("coco_test_ids.npy", b"\x93NUMPY\x01\x00\x08\x00{'descr'"),
        ("coco_test_ids.npy", b""),
        ("original_caption_to_image.json", b"{"),
        ("original_caption_to_image.json", b"{}"),
        ("original_caption_to_image.json", b"[]"),
    ],
)
def test_damaged_package_is_named(stand_in, name, content):
    (stand_in.folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged .* --force-reinstall$"):
        coco_test.read()


def test_published_numbers_ascend_within_an_image():
    pytest.importorskip("eccv_caption")
    coco = coco_test.read()
    assert len(coco.image_id) == 5_000
    assert np.bincount(coco.image).tolist() == [5] * 5_000
    assert (np.diff(coco.caption_id.reshape(5_000, 5), axis=1) > 0).all()
    assert (np.diff(coco.image) >= 0).all()
