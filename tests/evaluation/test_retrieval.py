import itertools

import numpy as np
import pytest

from tests import parity
from vse_jax.evaluation import retrieval, score_tiles
from vse_jax.evaluation.relevance import Relevance

SCORES = {
    "cosine": lambda image, caption: image @ caption,
    "order": lambda image, caption: -np.linalg.norm(np.maximum(0, caption - image)),
}
NO_BIASES = retrieval.Biases(0, 0)


def naive_ranks(
    images,
    captions,
    image_id,
    caption_image_id,
    similarity="cosine",
    biases=NO_BIASES,
):
    """Counts, per query, the wrong candidates that score at least as high."""
    scores = np.array([[SCORES[similarity](i, c) for c in captions] for i in images])
    own = np.asarray(image_id)[:, None] == np.asarray(caption_image_id)
    of_images = [
        sum(not s < row[mine].max() for s in row[~mine])
        for row, mine in zip(scores - biases.captions, own, strict=True)
        if mine.any()
    ]
    of_captions = [
        sum(not s < column[mine].max() for s in column[~mine])
        for column, mine in zip(scores.T - biases.images, own.T, strict=True)
    ]
    return np.array(of_images), np.array(of_captions)


def assert_ranks_are_naive(*split, similarity="cosine", biases=None):
    ranks = retrieval.rank(*split, similarity, biases)
    of_images, of_captions = naive_ranks(*split, similarity, biases or NO_BIASES)
    np.testing.assert_array_equal(ranks.image_to_text, of_images)
    np.testing.assert_array_equal(ranks.text_to_image, of_captions)
    return ranks


def ragged_split(images=12, dim=4, seed=0):
    """Draws captions in random order; small integers, so that many scores tie."""
    rng = np.random.default_rng(seed)
    caption_image_id = np.repeat(np.arange(images), rng.integers(1, 5, images))
    rng.shuffle(caption_image_id)
    return (
        rng.integers(-2, 3, (images, dim)).astype(np.float32),
        rng.integers(-2, 3, (len(caption_image_id), dim)).astype(np.float32),
        np.arange(images),
        caption_image_id,
    )


@pytest.mark.parametrize("similarity", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_those_of_a_double_loop(similarity, seed):
    assert_ranks_are_naive(*ragged_split(seed=seed), similarity=similarity)


def set_tiles(monkeypatch, images, captions):
    """Sets the largest tiles."""
    monkeypatch.setattr(score_tiles, "TILE_IMAGES", images)
    monkeypatch.setattr(score_tiles, "TILE_CAPTIONS", captions)


@pytest.mark.parametrize("tile", [(1, 4), (3, 1), (5, 8), (8, 5)])
def test_tiles_do_not_matter(monkeypatch, tile):
    set_tiles(monkeypatch, *tile)
    assert_ranks_are_naive(*ragged_split(images=13))


@pytest.mark.parametrize("with_biases", [False, True])
@pytest.mark.parametrize("similarity", SCORES)
def test_any_caption_may_be_correct(monkeypatch, similarity, with_biases):
    set_tiles(monkeypatch, 4, 16)
    images, captions, *_ = ragged_split(images=21)
    related = np.random.default_rng(0).random((len(images), len(captions))) < 0.1
    related[[2, 5]] = related[:, [3, 7]] = False  # queries without an answer
    relevance = Relevance.of_pairs(*np.nonzero(related), len(images))
    biases = random_biases(images, captions) if with_biases else NO_BIASES
    scores = np.array([[SCORES[similarity](i, c) for c in captions] for i in images])

    def naive(scores, related):
        return [
            sum(not other < row[mine].max() for other in row[~mine])
            for row, mine in zip(scores, related, strict=True)
            if mine.any()
        ]

    ranks = retrieval.rank_related(
        images, captions, relevance, similarity, biases if with_biases else None
    )
    of_images = naive(scores - biases.captions, related)
    assert ranks.image_to_text.tolist() == of_images
    of_captions = naive(scores.T - biases.images, related.T)
    assert ranks.text_to_image.tolist() == of_captions


def test_duplicate_images_are_not_wrong_answers(monkeypatch):
    set_tiles(monkeypatch, 2, 8)
    images, captions, _, caption_image_id = ragged_split()
    image_id = np.array([0, 1, 2, 3, 1, 5, 6, 7, 8, 1, 10, 11])  # 1 occurs three times
    caption_image_id = image_id[caption_image_id]
    images[image_id == 1] = images[1]
    assert_ranks_are_naive(images, captions, image_id, caption_image_id)


def test_only_a_duplicate_before_it_leaves_rank_zero():
    images = np.float32([[1, 0], [1, 0], [0, 1]])
    captions = np.float32([[1, 0], [1, 0], [0, 1]])
    apart = retrieval.rank(images, captions, np.arange(3), np.arange(3), "cosine")
    same = retrieval.rank(
        images, captions, np.array([0, 0, 2]), np.array([0, 0, 2]), "cosine"
    )
    np.testing.assert_array_equal(apart.text_to_image, [1, 1, 0])
    np.testing.assert_array_equal(same.text_to_image, [0, 0, 0])
    np.testing.assert_array_equal(same.image_to_text, [0, 0, 0])


def test_images_without_captions_are_only_candidates():
    images, captions, image_id, caption_image_id = ragged_split()
    kept = ~np.isin(caption_image_id, [2, 7])
    ranks = assert_ranks_are_naive(
        images, captions[kept], image_id, caption_image_id[kept]
    )
    assert len(ranks.image_to_text) == len(images) - 2


def test_ids_need_not_be_positions():
    images, captions, image_id, caption_image_id = ragged_split()
    names = np.random.default_rng(3).permutation(1000)[: len(images)]
    assert_ranks_are_naive(images, captions, names[image_id], names[caption_image_id])


def test_ties_count_against_the_model():
    images = np.float32([[1, 0], [1, 0]])
    captions = np.float32([[1, 0], [1, 0]])
    ranks = retrieval.rank(images, captions, np.arange(2), np.arange(2), "cosine")
    np.testing.assert_array_equal(ranks.image_to_text, [1, 1])
    np.testing.assert_array_equal(ranks.text_to_image, [1, 1])


@pytest.mark.parametrize("similarity", SCORES)
@pytest.mark.parametrize("kind", ["collapsed", "nan"])
def test_worthless_embeddings_do_not_score(monkeypatch, kind, similarity):
    set_tiles(monkeypatch, 16, 128)
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=37).astype(np.float32)
    embedding /= np.linalg.norm(embedding)
    if kind == "nan":
        embedding[:] = np.nan
    images, captions = np.tile(embedding, (40, 1)), np.tile(embedding, (200, 1))
    ranks = retrieval.rank(
        images, captions, np.arange(40), np.repeat(np.arange(40), 5), similarity
    )
    np.testing.assert_array_equal(ranks.image_to_text, 195)
    np.testing.assert_array_equal(ranks.text_to_image, 39)
    assert retrieval.recalls(ranks)["rsum"] == 0


def test_nan_image_affects_only_its_own_ranks():
    images, captions, image_id, caption_image_id = ragged_split()
    images[4] = np.nan
    assert_ranks_are_naive(images, captions, image_id, caption_image_id)


def test_recalls_of_known_ranks():
    ranks = retrieval.Ranks(np.array([0, 0, 4, 9]), np.array([1, 5, 10, 0, 3]))
    expected = {
        "i2t_r1": 50,
        "i2t_r5": 75,
        "i2t_r10": 100,
        "i2t_medr": 3,  # between 0 and 4, counted from 1
        "i2t_meanr": 4.25,
        "t2i_r1": 20,
        "t2i_r5": 60,
        "t2i_r10": 80,
        "t2i_medr": 4,
        "t2i_meanr": 4.8,
        "rsum": 385,
    }
    assert retrieval.recalls(ranks) == pytest.approx(expected)


def test_ensemble_averages_similarities():
    one, other = ragged_split(seed=0), ragged_split(seed=0)
    rng = np.random.default_rng(5)
    second = tuple(rng.integers(-2, 3, x.shape).astype(np.float32) for x in other[:2])
    ranks = retrieval.rank(
        np.stack([one[0], second[0]]), np.stack([one[1], second[1]]), *one[2:], "cosine"
    )
    # The dot product of concatenated embeddings is the sum of both models' products.
    joined = [np.concatenate(pair, 1) for pair in zip(one[:2], second, strict=True)]
    of_images, of_captions = naive_ranks(*joined, *one[2:])
    np.testing.assert_array_equal(ranks.image_to_text, of_images)
    np.testing.assert_array_equal(ranks.text_to_image, of_captions)


def random_biases(images, captions):
    rng = np.random.default_rng(7)
    return retrieval.Biases(
        *(rng.integers(-4, 5, len(x)).astype(np.float32) for x in (images, captions))
    )


@pytest.mark.parametrize("similarity", SCORES)
@pytest.mark.parametrize("tile", [(1, 8), (5, 16), (512, 2560)])
def test_biases_are_subtracted_from_candidates(monkeypatch, similarity, tile):
    set_tiles(monkeypatch, *tile)
    split = ragged_split(images=13)
    biases = random_biases(*split[:2])
    ranks = assert_ranks_are_naive(*split, similarity=similarity, biases=biases)
    plain = retrieval.rank(*split, similarity)
    assert (ranks.image_to_text != plain.image_to_text).any()
    assert (ranks.text_to_image != plain.text_to_image).any()


def test_biases_of_folds_are_those_of_their_items():
    images, captions, image_id, caption_image_id = split = ragged_split(images=12)
    biases = random_biases(images, captions)
    metrics = retrieval.evaluate_folds(*split, "cosine", folds=3, biases=biases)
    means = []
    for rows in np.split(np.arange(12), 3):
        mine = np.isin(caption_image_id, rows)
        _, of_captions = naive_ranks(
            images[rows],
            captions[mine],
            image_id[rows],
            caption_image_id[mine],
            biases=retrieval.Biases(biases.images[rows], biases.captions[mine]),
        )
        means.append(np.mean(of_captions) + 1)
    assert metrics["t2i_meanr"] == pytest.approx(np.mean(means))


def test_folds_are_evaluated_separately():
    images, captions, image_id, caption_image_id = ragged_split(images=12)
    metrics = retrieval.evaluate_folds(
        images, captions, image_id, caption_image_id, "cosine", folds=3
    )
    r1 = []
    for fold in range(3):
        rows = np.arange(4 * fold, 4 * fold + 4)
        mine = np.isin(caption_image_id, rows)
        of_images, _ = naive_ranks(
            images[rows], captions[mine], image_id[rows], caption_image_id[mine]
        )
        r1.append(100 * np.mean(of_images < 1))
    assert metrics["i2t_r1"] == pytest.approx(np.mean(r1))


NAMES = ("r1", "r5", "r10", "medr", "meanr")


def golden_split():
    golden = parity.load("retrieval")
    number = len(golden["in/image_emb"])
    captions_per_image = len(golden["in/caption_emb"]) // number
    ids = np.arange(number), np.repeat(np.arange(number), captions_per_image)
    return golden, ids


def assert_metrics(metrics, i2t, t2i):
    named = itertools.chain(
        zip((f"i2t_{name}" for name in NAMES), i2t, strict=True),
        zip((f"t2i_{name}" for name in NAMES), t2i, strict=True),
    )
    for name, value in named:
        assert metrics[name] == pytest.approx(value, abs=1e-4), name


def test_parity_of_ranks_and_metrics():
    golden, ids = golden_split()
    ranks = retrieval.rank(
        golden["in/image_emb"], golden["in/caption_emb"], *ids, "cosine"
    )
    np.testing.assert_array_equal(ranks.image_to_text, golden["out/i2t_ranks"])
    np.testing.assert_array_equal(ranks.text_to_image, golden["out/t2i_ranks"])
    assert_metrics(retrieval.recalls(ranks), golden["out/i2t"], golden["out/t2i"])


def test_parity_of_ensemble():
    golden, ids = golden_split()
    images = np.stack([golden["in/image_emb"]] * 2)
    captions = np.stack(
        [golden["in/caption_emb"], golden["in/caption_emb_second_model"]]
    )
    ranks = retrieval.rank(images, captions, *ids, "cosine")
    assert_metrics(
        retrieval.recalls(ranks),
        golden["out/ensemble_i2t"],
        golden["out/ensemble_t2i"],
    )


def test_parity_of_five_folds():
    golden, ids = golden_split()
    metrics = retrieval.evaluate_folds(
        golden["in/image_emb"], golden["in/caption_emb"], *ids, "cosine"
    )
    i2t, t2i = np.split(golden["out/five_fold_mean"], 2)
    assert_metrics(metrics, i2t, t2i)
