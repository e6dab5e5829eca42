import numpy as np
import pytest

from tests.evaluation.test_retrieval import SCORES
from vse_jax.evaluation import relevant_ranks, retrieval
from vse_jax.evaluation.relevance import Relevance
from vse_jax.evaluation.relevant_ranks import rank_relevant


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(relevant_ranks, "BLOCK", 8)
    monkeypatch.setattr(relevant_ranks, "TILE", 16)


def random_relation(queries, candidates, seed, share=0.2):
    """Relates pairs at random; the first two queries have no relevant candidate."""
    rng = np.random.default_rng(seed)
    related = rng.random((queries, candidates)) < share
    related[:2] = False
    related[2, : candidates // 2] = True  # more than the fewest slots
    query, candidate = np.nonzero(related)
    order = rng.permutation(len(query))
    return related, Relevance.of_pairs(query[order], candidate[order], queries)


def items(number, seed, dim=4):
    """Draws small integers, so that many scores tie."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (number, dim)).astype(np.float32)


def naive_ranks(scores, related):
    """Ranks of the relevant entries of each row of a matrix, with -inf left out."""
    return [
        sorted(
            sum(other >= score for other in row[~mine] if other > -np.inf) + above
            for above, score in enumerate(sorted(row[mine], reverse=True))
        )
        for row, mine in zip(scores, related, strict=True)
    ]


def assert_ranks(found, expected):
    assert found.query.tolist() == [i for i, ranks in enumerate(expected) if ranks]
    expected = [ranks for ranks in expected if ranks]
    rows = np.split(found.rank, found.offset[1:-1])
    assert [row.tolist() for row in rows] == expected
    assert found.best.tolist() == [ranks[0] for ranks in expected]


@pytest.mark.parametrize("similarity", SCORES)
@pytest.mark.parametrize("content", ["images", "captions"])
@pytest.mark.parametrize("seed", range(2))
def test_ranks_are_those_of_a_double_loop(similarity, content, seed):
    related, relevance = random_relation(19, 37, seed)
    queries, candidates = items(19, seed), items(37, seed + 10)
    score = SCORES[similarity]
    if content == "captions":
        score = lambda caption, image: SCORES[similarity](image, caption)  # noqa: E731
    scores = np.array([[score(q, c) for c in candidates] for q in queries])
    options = {"content": content, "similarity": similarity}
    found = rank_relevant(queries, candidates, relevance, **options)
    expected = naive_ranks(scores, related)
    assert_ranks(found, expected)
    best = rank_relevant(queries, candidates, relevance, **options, best_only=True)
    assert_ranks(best, [ranks[:1] for ranks in expected])


def test_an_item_is_not_its_own_candidate():
    related, _ = random_relation(21, 21, 3)
    np.fill_diagonal(related, False)
    relevance = Relevance.of_pairs(*np.nonzero(related), 21)
    embeddings = items(21, 0)
    scores = embeddings @ embeddings.T
    np.fill_diagonal(scores, -np.inf)
    found = rank_relevant(
        embeddings, embeddings, relevance, similarity="cosine", among_themselves=True
    )
    assert_ranks(found, naive_ranks(scores, related))


def test_models_are_averaged():
    related, relevance = random_relation(9, 17, 0)
    queries = np.stack([items(9, seed) for seed in range(3)])
    candidates = np.stack([items(17, seed) for seed in range(3, 6)])
    scores = np.einsum("mqd,mcd->mqc", queries, candidates).sum(0)
    assert_ranks(
        rank_relevant(queries, candidates, relevance, similarity="cosine"),
        naive_ranks(scores, related),
    )


def test_equal_ids_give_the_ranks_of_recall():
    """Recall's own ground truth is one relation among others."""
    images, captions = items(30, 0), items(150, 1)
    image_id = np.arange(30)
    caption_image_id = np.random.default_rng(0).permutation(np.repeat(image_id, 5))
    ranks = retrieval.rank(images, captions, image_id, caption_image_id, "cosine")
    relevance = Relevance.of_pairs(caption_image_id, np.arange(150), 30)
    of_images = rank_relevant(
        images, captions, relevance, similarity="cosine", best_only=True
    )
    np.testing.assert_array_equal(of_images.best, ranks.image_to_text)
    of_captions = rank_relevant(
        captions,
        images,
        Relevance.of_pairs(relevance.candidate, relevance.query, 150),
        similarity="cosine",
        content="captions",
    )
    np.testing.assert_array_equal(of_captions.best, ranks.text_to_image)


def test_equal_scores_count_against_the_model():
    relevance = Relevance.of_pairs([0, 0], [3, 5], 1)
    # Any dimension and position, as sums must not depend on the place in a tile.
    embeddings = np.random.default_rng(0).normal(size=37).astype(np.float32)
    found = rank_relevant(
        embeddings[None], np.tile(embeddings, (40, 1)), relevance, similarity="cosine"
    )
    assert found.rank.tolist() == [38, 39]


@pytest.mark.parametrize("among_themselves", [False, True])
def test_scores_of_nan_are_ranked_last_among_the_candidates_that_exist(
    among_themselves,
):
    """Neither padding nor the query itself is ahead of them."""
    relevance = Relevance.of_pairs([0, 0], [3, 5], 20)
    candidates = np.ones((20, 4), np.float32)
    candidates[5] = np.nan
    options = {"similarity": "cosine", "among_themselves": among_themselves}
    found = rank_relevant(candidates, candidates, relevance, **options)
    expected = [17, 18] if among_themselves else [18, 19]
    assert found.rank.tolist() == expected
    best = rank_relevant(candidates, candidates, relevance, **options, best_only=True)
    assert best.rank.tolist() == expected[:1]


def test_pairs_count_once():
    relevance = Relevance.of_pairs([2, 0, 2, 2], [4, 1, 4, 3], 4)
    assert relevance.offset.tolist() == [0, 1, 1, 3, 3]
    assert relevance.candidate.tolist() == [1, 3, 4]
    back = Relevance.of_pairs(relevance.query[::-1], relevance.candidate[::-1], 4)
    assert back.offset.tolist() == relevance.offset.tolist()
    assert back.candidate.tolist() == relevance.candidate.tolist()
