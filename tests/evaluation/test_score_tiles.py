import numpy as np
import pytest

from vse_jax.evaluation import score_tiles
from vse_jax.similarity import SIMILARITIES


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("captions_per_image", [1, 5])
def test_scores_of_pairs_are_exactly_those_of_tiles(
    monkeypatch, similarity, captions_per_image
):
    """Rounding differs between programs and shapes, and would turn ties into ranks."""
    monkeypatch.setattr(score_tiles, "TILE_IMAGES", 128)
    monkeypatch.setattr(score_tiles, "TILE_CAPTIONS", 384)
    generator = np.random.default_rng(0)
    embeddings = [
        generator.standard_normal((2, number, 67), np.float32) for number in (300, 700)
    ]
    images, captions = score_tiles.sides(*embeddings)
    matrix = np.block(
        [
            [
                np.asarray(score_tiles.tile_of_scores(rows, columns, similarity))
                for columns in captions.tiles()
            ]
            for rows in images.tiles()
        ]
    )
    assert matrix.shape == (3 * 128, 2 * 384)
    image = np.repeat(np.arange(len(images)), captions_per_image)
    caption = generator.integers(0, len(captions), len(image))
    found = score_tiles.scores_of_pairs(images, captions, image, caption, similarity)
    np.testing.assert_array_equal(found, matrix[image, caption])
    both = zip(*embeddings, strict=True)
    exact = np.mean([SIMILARITIES[similarity](*pair) for pair in both], axis=0)
    np.testing.assert_allclose(matrix[:300, :700], exact, rtol=1e-4, atol=1e-4)


def test_tiles_of_small_splits_are_small():
    images, captions = score_tiles.sides(np.zeros((3, 2)), np.zeros((2000, 2)))
    assert (images.tile, captions.tile) == (128, 2048)
