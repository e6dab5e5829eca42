"""ECCV Caption: more right answers of a part of COCO's test split.

ECCV Caption (Chun et al., "ECCV Caption: Correcting False Negatives by Collecting
Machine-and-Human-verified Image-Caption Associations for MS-COCO", 2022) has 1,261
images and 1,332 captions as queries, each with all of its right answers among the
captions and images of the split. Besides recall@1 it measures how well all of them are
ranked: R-Precision is the share of right answers among the first R results of a query
that has R of them, and mAP@R is the mean of the precision at the rank of each right
answer, which is 0 beyond rank R.

Two of the right answers are sixth captions of images, which are not among the 25,000.
As in the package `eccv-caption`, they count in R but are never found.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test
from vse_jax.evaluation.coco_test import CocoTest
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.relevance import Relevance
from vse_jax.evaluation.relevant_ranks import RelevantRanks, rank_relevant

_TASKS = {"i2t": "image to text", "t2i": "text to image"}


class RightAnswers(NamedTuple):
    """The right answers of all queries of one direction.

    Attributes:
      relevance: relation of the queries and candidates of `CocoTest`.
      count: int64 `[queries]`, number of right answers, R, of the queries that have
        any, also of those that are no candidates.
    """

    relevance: Relevance
    count: np.ndarray


@dataclasses.dataclass(frozen=True)
class EccvCaption:
    """The suite.

    Attributes:
      captions_of_image: right answers of images.
      images_of_caption: right answers of captions.
    """

    captions_of_image: RightAnswers
    images_of_caption: RightAnswers

    @classmethod
    def read(cls, coco: CocoTest) -> "EccvCaption":
        """Reads the right answers from the package `eccv-caption`.

        Args:
          coco: numbers of the images and captions.

        Raises:
          InputError: if the package is not installed or its files are damaged.
        """
        images, captions = coco.image_row, coco.caption_row
        return cls(
            _read("eccv_image_to_caption.json", images, captions),
            _read("eccv_caption_to_image.json", captions, images),
        )

    def measure(self, embeddings: Embeddings, similarity: str) -> dict[str, float]:
        """Computes all metrics.

        Args:
          embeddings: in the order of `CocoTest`; with an axis of models for an
            ensemble.
          similarity: one of `similarity.SIMILARITIES`.

        Returns:
          `i2t_map_at_r i2t_rprecision i2t_r1` in percent and `i2t_queries`, the same
          for `t2i`.
        """
        images, captions = embeddings
        of_images = rank_relevant(
            images, captions, self.captions_of_image.relevance, similarity=similarity
        )
        of_captions = rank_relevant(
            captions,
            images,
            self.images_of_caption.relevance,
            content="captions",
            similarity=similarity,
        )
        return {
            **_metrics("i2t", of_images, self.captions_of_image.count),
            **_metrics("t2i", of_captions, self.images_of_caption.count),
        }


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Returns a table of the metrics.

    Args:
      metrics: see `EccvCaption.measure`.
    """
    lines = [f"{'':15}{'mAP@R':>7}{'R-Prec':>8}{'R@1':>7}{'queries':>9}"]
    for task, name in _TASKS.items():
        values = [metrics[f"{task}_{m}"] for m in ("map_at_r", "rprecision", "r1")]
        lines.append(
            f"{name:15}{values[0]:7.1f}{values[1]:8.1f}{values[2]:7.1f}"
            f"{metrics[f'{task}_queries']:9,.0f}"
        )
    return "\n".join(lines)


def _read(name, queries, candidates):
    """Reads the right answers; `queries` and `candidates` have the row of each ID."""
    relation = coco_test.read_relation(name)
    known = [[i for i in items if i in candidates] for items in relation.values()]
    for query, answers in zip(relation, known, strict=True):
        reason = f"has no right answer for {query} in COCO's test split"
        if query not in queries:
            reason = f"has {query}, which is none of COCO's test split"
        elif answers:
            continue
        raise InputError(
            f"{coco_test.data_file(name)}: {reason}; {coco_test.INSTALL} "
            "--force-reinstall"
        )
    query = np.repeat([queries[key] for key in relation], list(map(len, known)))
    candidate = [candidates[item] for item in itertools.chain.from_iterable(known)]
    count = np.zeros(len(queries), np.int64)
    count[[queries[key] for key in relation]] = list(map(len, relation.values()))
    relevance = Relevance.of_pairs(query, np.array(candidate), len(queries))
    return RightAnswers(relevance, count[count > 0])


def _metrics(task: str, ranks: RelevantRanks, r: np.ndarray) -> dict[str, float]:
    return {
        f"{task}_map_at_r": 100 * float(np.mean(_average_precision_at_r(ranks, r))),
        f"{task}_rprecision": 100 * float(np.mean(_r_precision(ranks, r))),
        f"{task}_r1": 100 * float(np.mean(ranks.best < 1)),
        f"{task}_queries": len(ranks.query),
    }


def _average_precision_at_r(ranks: RelevantRanks, r: np.ndarray) -> np.ndarray:
    """Returns the AP@R of each query, float64 `[queries]`, from 0 to 1.

    It is the sum of the precisions at the relevant candidates among the first R
    results, divided by R.

    Args:
      ranks: of all relevant candidates.
      r: int `[queries]`, number of right answers.
    """
    return _mean_of_first_r(ranks, r, (ranks.place + 1) / (ranks.rank + 1))


def _r_precision(ranks: RelevantRanks, r: np.ndarray) -> np.ndarray:
    """Returns the relevant share of the first R results, float64 `[queries]`.

    Args:
      ranks: of all relevant candidates.
      r: int `[queries]`, number of right answers.
    """
    return _mean_of_first_r(ranks, r, np.ones(len(ranks.rank)))


def _mean_of_first_r(ranks, r, values):
    """Averages a value per relevant candidate over the first R results of a query."""
    is_among = ranks.rank < np.repeat(r, ranks.count)
    return np.add.reduceat(np.where(is_among, values, 0), ranks.offset[:-1]) / r
