"""Similarities of queries and candidates, in tiles of the similarity matrix."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vse_jax import parallel
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.evaluator import Evaluation
from vse_jax.similarity import scores_of

TILE_QUERIES = 512
TILE_CANDIDATES = 2048


class Direction(NamedTuple):
    """The queries and candidates of a direction.

    Attributes:
      name: `i2t` or `t2i`.
      query: `[queries]` int, numbers of the images that have captions, or of the
        captions.
      query_image: `[queries]` int, ID of the image of each query.
      candidate_image: `[candidates]` int, ID of the image of each candidate.
      ranks: `[queries]` int, rank of the best right answer, counted from 0.
    """

    name: str
    query: np.ndarray
    query_image: np.ndarray
    candidate_image: np.ndarray
    ranks: np.ndarray


class Similarities(NamedTuple):
    """Similarities of the queries of one direction, float32 `[queries]`.

    Attributes:
      positive: similarity of the best right answer.
      hardest: similarity of the most similar wrong answer; -inf if there is none.
    """

    positive: np.ndarray
    hardest: np.ndarray


def directions(evaluation: Evaluation) -> tuple[Direction, Direction]:
    """Returns image to text and text to image."""
    image_id = evaluation.index.image_id
    caption_image_id = evaluation.index.caption_image_id
    queries = np.flatnonzero(np.isin(image_id, caption_image_id))
    ranks = evaluation.ranks
    return (
        Direction(
            "i2t", queries, image_id[queries], caption_image_id, ranks.image_to_text
        ),
        Direction(
            "t2i",
            np.arange(len(caption_image_id)),
            caption_image_id,
            image_id,
            ranks.text_to_image,
        ),
    )


def similarities(
    embeddings: Embeddings, direction: Direction, similarity: str
) -> Similarities:
    """Returns the similarities of the right and of the hardest wrong answers.

    Args:
      embeddings: of a split.
      direction: queries and candidates.
      similarity: one of `similarity.SIMILARITIES`.
    """
    queries, candidates = _sides(embeddings, direction)
    best = np.full((2, len(direction.query)), -np.inf, np.float32)
    for rows in _tiles(len(direction.query), TILE_QUERIES):
        for some in _tiles(len(candidates), TILE_CANDIDATES):
            tile = _best_of_tile(
                queries[direction.query[rows]],
                candidates[some],
                direction.query_image[rows],
                direction.candidate_image[some],
                name=direction.name,
                similarity=similarity,
            )
            best[:, rows] = np.maximum(best[:, rows], tile)
    return Similarities(*best)


def scores(
    embeddings: Embeddings, direction: Direction, rows: np.ndarray, similarity: str
) -> np.ndarray:
    """Returns the similarities of a few queries to all candidates.

    Args:
      embeddings: of a split.
      direction: queries and candidates.
      rows: `[rows]` int, positions of the queries in `direction.query`.
      similarity: one of `similarity.SIMILARITIES`.

    Returns:
      float32 `[rows, candidates]`.
    """
    queries, candidates = _sides(embeddings, direction)
    tile = queries[direction.query[rows]]
    return np.concatenate(
        [
            _scores_of_tile(tile, candidates[some], direction.name, similarity)
            for some in _tiles(len(candidates), TILE_CANDIDATES)
        ],
        axis=1,
    )


def _sides(embeddings, direction):
    """Returns the embeddings of the queries and of the candidates."""
    images, captions = embeddings
    return (images, captions) if direction.name == "i2t" else (captions, images)


def _tiles(number, size):
    return np.split(np.arange(number, dtype=np.int32), range(size, number, size))


def _scores(queries, candidates, name, similarity):
    content = "captions" if name == "i2t" else "images"
    return scores_of(similarity, content, candidates, queries).T


_jit = functools.partial(
    parallel.jit_in_float32, static_argnames=("name", "similarity")
)
_scores_of_tile = _jit(_scores)


@_jit
def _best_of_tile(
    queries, candidates, query_image, candidate_image, *, name, similarity
):
    """Returns the greatest similarity of right and of wrong candidates."""
    values = _scores(queries, candidates, name, similarity)
    right = query_image[:, None] == candidate_image
    return jnp.stack(
        [jnp.where(chosen, values, -jnp.inf).max(1) for chosen in (right, ~right)]
    )
