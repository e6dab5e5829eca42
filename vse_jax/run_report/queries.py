"""Chooses queries to show, and retrieves their results."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vse_jax.evaluation.embedder import Embeddings
from vse_jax.run_report import neighbors, statistics
from vse_jax.run_report.neighbors import Direction, Similarities

RESULTS = 5
_QUERIES = 4  # of each kind


@dataclasses.dataclass(frozen=True)
class Result:
    """A retrieved image or caption.

    Attributes:
      number: number of the image or caption in the split.
      similarity: similarity to the query.
      is_right: whether it belongs to the query.
    """

    number: int
    similarity: float
    is_right: bool


@dataclasses.dataclass(frozen=True)
class Query:
    """A query with its results.

    Attributes:
      number: number of the caption or image in the split.
      rank: rank of its best right answer, counted from 1.
      results: the first results.
      answer: the best right answer.
    """

    number: int
    rank: int
    results: Sequence[Result]
    answer: Result


def choose(
    embeddings: Embeddings,
    direction: Direction,
    similarities: Similarities,
    similarity: str,
) -> dict[str, list[Query]]:
    """Returns the best, the median and the worst queries of a direction.

    Args:
      embeddings: of the split.
      direction: queries and candidates.
      similarities: of the queries to their right and hardest wrong answers.
      similarity: one of `similarity.SIMILARITIES`.

    Returns:
      Queries of different images by `best`, `median` and `worst`.
    """
    margin = similarities.positive - similarities.hardest
    choice = statistics.choose_queries(
        direction.ranks, margin, direction.query_image, _QUERIES
    )
    rows = np.concatenate(choice)
    scores = neighbors.scores(embeddings, direction, rows, similarity)
    queries = [
        _query(direction, row, some) for row, some in zip(rows, scores, strict=True)
    ]
    parts = iter(queries)
    return {
        kind: [next(parts) for _ in chosen] for kind, chosen in choice._asdict().items()
    }


def _query(direction: Direction, row: int, scores: np.ndarray) -> Query:
    right = direction.candidate_image == direction.query_image[row]
    best = int(np.argmax(np.where(right, scores, -np.inf)))
    # Of equal similarities, wrong answers come first, as in the ranks.
    order = np.lexsort((right, -scores))[:RESULTS].tolist()

    def result(number):
        return Result(number, float(scores[number]), bool(right[number]))

    return Query(
        number=int(direction.query[row]),
        rank=int(direction.ranks[row]) + 1,
        results=[result(number) for number in order],
        answer=result(best),
    )


def shown(queries: Mapping[str, Mapping[str, Sequence[Query]]]) -> dict[str, set[int]]:
    """Returns the numbers of the images and captions that queries show.

    Args:
      queries: by direction and kind.
    """
    asked, found = {}, {}
    for direction, kinds in queries.items():
        every = [query for some in kinds.values() for query in some]
        asked[direction] = {query.number for query in every}
        found[direction] = {
            result.number
            for query in every
            for result in (*query.results, query.answer)
        }
    return {
        "images": asked["i2t"] | found["t2i"],
        "captions": asked["t2i"] | found["i2t"],
    }
