"""Crisscrossed Captions (CxC): retrieval and human judgements on COCO's test split.

CxC (Parekh et al., "Crisscrossed Captions: Extended Intramodal and Intermodal Semantic
Similarity Judgments for MS-COCO", 2021) has judgements of caption pairs (STS), image
pairs (SIS) and caption-image pairs (SITS). Retrieval has more right answers than
COCO's own, also between captions and between images:

- A caption and an image belong together if they are judged with at least 3.
- Two captions belong together if they have the same image, or are judged with at least
  3.
- Two images belong together if they are judged with at least 2.5.

These are the limits of the paper and of VSE-infinity's evaluation. Queries without a
right answer are left out, and a query is not its own candidate. Pairs within a modality
are compared by the cosine similarity. For embeddings of unit length, this has the order
of the symmetric form of the order similarity, the Euclidean distance.

The paper does not say which side of SITS are the queries of the sampled correlation.
They are images here: 2,500 pairs have the deviation of the published results, and
12,500 pairs have less than half of it.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np

from vse_jax import parallel
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test, cxc_judgements
from vse_jax.evaluation.coco_test import CocoTest
from vse_jax.evaluation.correlation import sampled_spearman
from vse_jax.evaluation.cxc_judgements import Judgements
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.relevance import Relevance
from vse_jax.evaluation.relevant_ranks import rank_relevant
from vse_jax.evaluation.retrieval import rank_related
from vse_jax.evaluation.score_tiles import with_model_axis
from vse_jax.similarity import SIMILARITIES

LEAST_OF_TEXT = 3.0  # judgement of a pair with a caption that makes it a right answer
LEAST_OF_IMAGES = 2.5  # the same of two images
_PAIRS = 4096  # whose similarities are computed at once
_TASKS = {
    "i2t": "image to text",
    "t2i": "text to image",
    "t2t": "text to text",
    "i2i": "image to image",
}


def text_text(captions: np.ndarray, folder: str) -> dict[str, float]:
    """Evaluates caption embeddings alone: text-text retrieval and STS.

    Args:
      captions: `[captions, embed]` float32, in the order of COCO's `testall_caps.txt`,
        or `[models, captions, embed]` for an ensemble.
      folder: folder of `sts_test.csv`.

    Returns:
      `t2t_r1 t2t_r5 t2t_r10` in percent, `t2t_queries`, and `sts` and `sts_deviation`,
      Spearman's correlation times 100.

    Raises:
      InputError: if `eccv-caption` is not installed, the file is invalid, or the shape
        or the number of captions is wrong.
    """
    captions = np.asarray(captions)
    if captions.ndim not in (2, 3):
        raise InputError(
            f"embeddings of captions have the shape {list(captions.shape)}; expected "
            "[captions, embed], or [models, captions, embed] for an ensemble"
        )
    return _text_text(captions, *read_text_text(captions.shape[-2], folder))


def read_text_text(captions: int, folder: str) -> tuple[Judgements, CocoTest]:
    """Reads what `text_text` needs, and checks the number of captions.

    Args:
      captions: number of captions.
      folder: folder of `sts_test.csv`.

    Returns:
      The judgements of STS, and the numbers of COCO's images and captions.

    Raises:
      InputError: see `text_text`.
    """
    coco = coco_test.read()
    if captions != len(coco.image):
        raise InputError(
            f"there are {captions:,} captions or embeddings of them; expected "
            f"{len(coco.image):,}, those of COCO's testall_caps.txt in its order"
        )
    return cxc_judgements.read(folder, "sts_test.csv", coco), coco


@dataclasses.dataclass(frozen=True)
class CrisscrossedCaptions:
    """The suite.

    Attributes:
      coco: numbers of the images and captions.
      sts: judgements of two captions.
      sis: judgements of two images.
      sits: judgements of a caption and an image.
    """

    coco: CocoTest
    sts: Judgements
    sis: Judgements
    sits: Judgements

    @classmethod
    def read(cls, coco: CocoTest, folder: str) -> "CrisscrossedCaptions":
        """Reads the judgements.

        Args:
          coco: numbers of the images and captions.
          folder: folder of CxC's files.

        Raises:
          InputError: if a file is invalid, or if it makes no answer right.
        """
        names = "sts_test.csv", "sis_test.csv", "sits_test.csv"
        sts, sis, sits = (cxc_judgements.read(folder, name, coco) for name in names)
        for name, judged, least in (
            ("sis_test.csv", sis, LEAST_OF_IMAGES),
            ("sits_test.csv", sits, LEAST_OF_TEXT),
        ):
            if judged.score.max() < least:
                raise InputError(
                    f"{folder}/{name}: has no judgement of at least {least}, so no "
                    "answer is right; download it again"
                )
        return cls(coco, sts, sis, sits)

    def measure(self, embeddings: Embeddings, similarity: str) -> dict[str, float]:
        """Computes all metrics.

        Args:
          embeddings: in the order of `coco`; with an axis of models for an ensemble.
          similarity: one of `similarity.SIMILARITIES`, of images and captions.

        Returns:
          `R@K` in percent and the number of queries by `i2t_r1 ... i2t_queries`, the
          same for `t2i`, `t2t` and `i2i`; Spearman's correlation times 100 and its
          deviation by `sts sts_deviation`, the same for `sis` and `sits`.
        """
        return {
            **_image_text(embeddings, self.sits, similarity),
            **_text_text(embeddings.captions, self.sts, self.coco),
            **_image_image(embeddings.images, self.sis),
        }


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Returns a table of the tasks that were evaluated.

    Args:
      metrics: see `CrisscrossedCaptions.measure` and `text_text`.
    """
    lines = [f"{'':15}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'queries':>9}"]
    for task, name in _TASKS.items():
        if f"{task}_r1" in metrics:
            recalls = "".join(f"{metrics[f'{task}_r{k}']:7.1f}" for k in (1, 5, 10))
            lines.append(f"{name:15}{recalls}{metrics[f'{task}_queries']:9,.0f}")
    lines.append(f"{'':15}{'Spearman':>14}{'+-':>7}")
    for task in ("sts", "sis", "sits"):
        if task in metrics:
            deviation = metrics[f"{task}_deviation"]
            lines.append(f"{task.upper():15}{metrics[task]:14.1f}{deviation:7.1f}")
    return "\n".join(lines)


def _image_text(embeddings, sits, similarity):
    """Evaluates retrieval between images and captions, and SITS."""
    images, captions = map(with_model_axis, embeddings)
    related = sits.score >= LEAST_OF_TEXT
    relevance = Relevance.of_pairs(
        sits.second[related], sits.first[related], images.shape[1]
    )
    ranks = rank_related(images, captions, relevance, similarity)
    pairs = np.arange(len(sits.score))
    judged = Relevance.of_pairs(sits.second, pairs, images.shape[1])
    scores = _scores_of_pairs(images, captions, sits.second, sits.first, similarity)
    return {
        **_recalls("i2t", ranks.image_to_text),
        **_recalls("t2i", ranks.text_to_image),
        **_correlation("sits", scores, sits, judged),
    }


def _text_text(captions, sts, coco):
    """Evaluates retrieval of captions by captions, and STS."""
    related = sts.score >= LEAST_OF_TEXT
    first, second = _of_same_image(coco.image)
    first = np.concatenate([first, sts.first[related]])
    second = np.concatenate([second, sts.second[related]])
    return _within(captions, first, second, sts, "t2t", "sts")


def _image_image(images, sis):
    """Evaluates retrieval of images by images, and SIS."""
    related = sis.score >= LEAST_OF_IMAGES
    return _within(images, sis.first[related], sis.second[related], sis, "i2i", "sis")


def _within(embeddings, first, second, judgements, task, correlation):
    """Evaluates one modality; `first` and `second` are the related pairs."""
    embeddings = with_model_axis(embeddings)
    norm = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    embeddings = embeddings / np.maximum(norm, np.finfo(np.float32).tiny)
    number = embeddings.shape[1]
    relevance = _both_ways(first, second, first, second, number)
    ranks = rank_relevant(
        embeddings,
        embeddings,
        relevance,
        similarity="cosine",
        among_themselves=True,
        best_only=True,
    )
    first, second, score = judgements
    pairs = np.arange(len(score))
    judged = _both_ways(first, second, pairs, pairs, number)
    scores = _scores_of_pairs(embeddings, embeddings, first, second, "cosine")
    return {
        **_recalls(task, ranks.best),
        **_correlation(correlation, scores, judgements, judged),
    }


def _of_same_image(image):
    """Returns all pairs of captions of the same image, which are consecutive."""
    most = np.bincount(image).max()
    shifts = [np.flatnonzero(image[k:] == image[:-k]) for k in range(1, most)]
    first = np.concatenate([*shifts, np.empty(0, np.int64)])
    apart = np.repeat(np.arange(1, most), [len(shift) for shift in shifts])
    return first, first + apart


def _both_ways(first, second, of_first, of_second, queries):
    """Relates the first items of pairs to `of_second`, and the second to `of_first`."""
    return Relevance.of_pairs(
        np.concatenate([first, second]), np.concatenate([of_second, of_first]), queries
    )


def _recalls(task, ranks):
    """Computes recall@K of queries from the ranks of their first right answers."""
    recalls = {f"{task}_r{k}": 100 * float(np.mean(ranks < k)) for k in (1, 5, 10)}
    return {**recalls, f"{task}_queries": len(ranks)}


def _correlation(name, scores, judgements, judged):
    correlation = sampled_spearman(scores, judgements.score, judged)
    return {
        name: 100 * correlation.mean,
        f"{name}_deviation": 100 * correlation.deviation,
    }


def _scores_of_pairs(images, captions, image, caption, similarity):
    """Computes the similarity of each pair, float32 `[pairs]`.

    `images` and `captions` are `[models, items, embed]`; `image` and `caption` are
    their rows, `[pairs]`.
    """
    parts = []
    for start in range(0, len(image), _PAIRS):
        rows = [side[start : start + _PAIRS] for side in (image, caption)]
        padding = (0, _PAIRS - len(rows[0]))  # one shape, so one program
        rows = [np.pad(side, padding) for side in rows]
        scores = _scores_of_rows(images[:, rows[0]], captions[:, rows[1]], similarity)
        parts.append(np.asarray(scores))
    return np.concatenate(parts)[: len(image)]


@functools.partial(parallel.jit_in_float32, static_argnames="similarity")
def _scores_of_rows(images, captions, similarity):
    def of_pair(image, caption):
        return SIMILARITIES[similarity](image[None], caption[None])[0, 0]

    return jax.vmap(jax.vmap(of_pair))(images, captions).mean(0)
