import types

import numpy as np
import pytest

from vse_jax.evaluation import retrieval
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.run_report import neighbors

SCORES = {
    "cosine": lambda image, caption: image @ caption,
    "order": lambda image, caption: -np.linalg.norm(np.maximum(0, caption - image)),
}
NAMES = ("i2t", "t2i")


@pytest.fixture(params=SCORES)
def split(request, monkeypatch):
    """Embeddings, both directions, naive scores, and the similarity."""
    monkeypatch.setattr(neighbors, "TILE_QUERIES", 5)
    monkeypatch.setattr(neighbors, "TILE_CANDIDATES", 7)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(11, 4)).astype(np.float32)
    captions = rng.normal(size=(20, 4)).astype(np.float32)
    image_id = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 10])  # 1 occurs twice
    caption_image_id = rng.choice([0, 1, 2, 3, 5, 6, 8, 10], 20)  # 4 and 7 have none
    ranks = retrieval.rank(images, captions, image_id, caption_image_id, request.param)
    evaluation = types.SimpleNamespace(
        index=types.SimpleNamespace(
            image_id=image_id, caption_image_id=caption_image_id
        ),
        ranks=ranks,
    )
    score = SCORES[request.param]
    scores = np.array([[score(i, c) for c in captions] for i in images])
    own = image_id[:, None] == caption_image_id
    directions = dict(zip(NAMES, neighbors.directions(evaluation), strict=True))
    with_caption = np.flatnonzero(own.any(1))
    naive = {
        "i2t": (scores[with_caption], own[with_caption]),
        "t2i": (scores.T, own.T),
    }
    return Embeddings(images, captions), directions, naive, request.param


@pytest.mark.parametrize("name", NAMES)
def test_similarities_of_right_and_hardest_wrong_answers(split, name):
    embeddings, directions, naive, similarity = split
    scores, own = naive[name]
    found = neighbors.similarities(embeddings, directions[name], similarity)
    expected = [
        [row[chosen].max() for row, chosen in zip(scores, mask, strict=True)]
        for mask in (own, ~own)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_some_queries(split, name):
    embeddings, directions, naive, similarity = split
    rows = np.array([3, 0, 7])
    found = neighbors.scores(embeddings, directions[name], rows, similarity)
    np.testing.assert_allclose(found, naive[name][0][rows], atol=1e-5)
