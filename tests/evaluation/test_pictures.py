import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from vse_jax.data import split_index
from vse_jax.data.text import vocabulary
from vse_jax.evaluation import pictures
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.evaluator import Evaluation
from vse_jax.experiment import Experiment

CELL = pictures.THUMBNAIL + 2 * pictures.BORDER
GAP = 2 * pictures.BORDER
ROW = CELL + GAP


@pytest.fixture(scope="module")
def experiment(shapes_builder):
    from configs import common

    words = vocabulary.training_vocabulary(shapes_builder, 1)
    return Experiment(common.get_config(), shapes_builder, words)


def evaluation(experiment, image_of_rank):
    """Returns embeddings with which query `q` retrieves `image_of_rank(q)` first."""
    index = split_index.split_index(experiment.builder, "dev")
    images = np.eye(len(index.image_id), dtype=np.float32)
    first = [image_of_rank(image) for image in index.caption_image_id]
    captions = images[np.array(first)]
    return Evaluation("dev", index, Embeddings(images, captions), None, {}, None)


def border_colors(picture, row):
    """Returns the frame colors of the images that a caption retrieved."""
    lefts = pictures.TEXT_WIDTH + GAP + (CELL + GAP) * np.arange(pictures.RESULTS)
    return [tuple(picture[row * ROW + 1, left + 1].tolist()) for left in lefts]


def test_right_results_are_marked(experiment):
    picture = pictures.retrieved(experiment, evaluation(experiment, lambda i: i))
    for row in range(pictures.QUERIES):
        colors = border_colors(picture, row)
        wrong = [pictures.WRONG] * (pictures.RESULTS - 1)
        assert colors == [pictures.RIGHT, *wrong]


def test_wrong_results_are_marked(experiment):
    shifted = evaluation(experiment, lambda i: (i + 1) % 10)
    picture = pictures.retrieved(experiment, shifted)
    for row in range(pictures.QUERIES):
        assert border_colors(picture, row)[0] == pictures.WRONG


def colors_of_text(picture, row):
    captions = picture[row * ROW : row * ROW + CELL, CELL + GAP :].reshape(-1, 3)
    return {tuple(color) for color in captions.tolist()} & {
        pictures.RIGHT,
        pictures.WRONG,
    }


def test_right_captions_are_marked(experiment):
    """The five best captions of an image are its own, or those of another."""
    rows = range(pictures.QUERIES, 2 * pictures.QUERIES)
    right = pictures.retrieved(experiment, evaluation(experiment, lambda i: i))
    shifted = evaluation(experiment, lambda i: (i + 1) % 10)
    wrong = pictures.retrieved(experiment, shifted)
    for row in rows:
        assert colors_of_text(right, row) == {pictures.RIGHT}
        assert colors_of_text(wrong, row) == {pictures.WRONG}


def test_there_is_a_row_for_each_query(experiment):
    picture = pictures.retrieved(experiment, evaluation(experiment, lambda i: i))
    assert picture.dtype == np.uint8
    height, width, channels = picture.shape
    assert (height, channels) == (2 * pictures.QUERIES * ROW, 3)
    assert width == pictures.TEXT_WIDTH + GAP + pictures.RESULTS * (CELL + GAP)


def test_features_have_no_picture(experiment, monkeypatch):
    monkeypatch.setattr(
        pictures.records, "content_of", lambda _: types.SimpleNamespace(key="regions")
    )
    assert pictures.retrieved(experiment, None) is None


def test_picture_that_cannot_be_saved_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "picture.png")
    path.write_bytes(b"earlier")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.save(np.zeros((5, 7, 3), np.uint8), path)
    assert path.read_bytes() == b"earlier"


def test_picture_is_saved_without_loss(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    pictures.save(picture, epath.Path(tmp_path / "picture.png"))
    with Image.open(tmp_path / "picture.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture)
