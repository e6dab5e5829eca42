"""Ranks images for captions and captions for images, and computes the metrics.

Nothing is sorted. A rank is the number of wrong candidates that score at least as high
as the best correct one, counted in tiles of the similarity matrix on the device. Ties
count against the model, so that collapsed embeddings do not get a high recall.

All candidates that are not below the best correct one are counted first, and the
correct ones among them, which are few, are subtracted. So one matrix product serves
both directions for any relation of images and captions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax.evaluation import score_tiles
from vse_jax.evaluation.counting import count_not_below
from vse_jax.evaluation.relevance import Relevance


class Ranks(NamedTuple):
    """Ranks, counted from 0, int64.

    Attributes:
      image_to_text: `[images]`, rank of the best correct caption of each image that has
        any.
      text_to_image: `[captions]`, rank of the best correct image of each caption that
        has any. Its own image is the only one in most ground truths.
    """

    image_to_text: np.ndarray
    text_to_image: np.ndarray


class Biases(NamedTuple):
    """What is subtracted from the scores of each candidate, see `hubness`.

    Attributes:
      images: `[images]` float, when images are ranked for captions.
      captions: `[captions]` float, when captions are ranked for images.
    """

    images: np.ndarray
    captions: np.ndarray


def rank(
    images: np.ndarray,
    captions: np.ndarray,
    image_id: np.ndarray,
    caption_image_id: np.ndarray,
    similarity: str,
    biases: Biases | None = None,
) -> Ranks:
    """Ranks all captions for each image and all images for each caption.

    Args:
      images: `[images, embed]` float32, or `[models, images, embed]` for an ensemble,
        whose similarities are averaged.
      captions: `[captions, embed]` or `[models, captions, embed]` float32.
      image_id: `[images]` int, equal for duplicate images.
      caption_image_id: `[captions]` int, ID of the image that each caption belongs to.
      similarity: one of `similarity.SIMILARITIES`.
      biases: what to subtract from the scores of each item when it is a candidate;
        None for nothing.

    Returns:
      A `Ranks`.
    """
    relevance = Relevance.of_ids(image_id, caption_image_id)
    return rank_related(images, captions, relevance, similarity, biases)


def rank_related(
    images: np.ndarray,
    captions: np.ndarray,
    relevance: Relevance,
    similarity: str,
    biases: Biases | None = None,
) -> Ranks:
    """Ranks as `rank` does, where any caption may be correct for any image.

    Args:
      images: see `rank`.
      captions: see `rank`.
      relevance: correct captions of each image.
      similarity: see `rank`.
      biases: see `rank`.

    Returns:
      A `Ranks`.
    """
    images, captions = score_tiles.sides(images, captions)
    image, caption = relevance.query, relevance.candidate
    scores = score_tiles.scores_of_pairs(images, captions, image, caption, similarity)
    of_captions = of_images = scores
    if biases is not None:
        biases = Biases(*(np.asarray(bias, np.float32) for bias in biases))
        of_captions = scores - biases.captions[caption]
        of_images = scores - biases.images[image]
    best = Ranks(
        _best(of_captions, image, len(images)),
        _best(of_images, caption, len(captions)),
    )
    ahead = _count_ahead(images, captions, best, biases, similarity)
    return Ranks(
        _wrong(ahead.image_to_text, of_captions, best.image_to_text, image),
        _wrong(ahead.text_to_image, of_images, best.text_to_image, caption),
    )


def _best(scores, query, queries):
    """Returns the best of the scores of each query, -inf without any."""
    best = np.full(queries, -np.inf, np.float32)
    with np.errstate(invalid="ignore"):  # NaN is the best of all
        np.maximum.at(best, query, scores)
    return best


def _wrong(ahead, scores, best, query):
    """Subtracts the correct candidates that are ahead; drops queries without any."""
    is_ahead = ~(scores < best[query])  # as `count_not_below` counts
    answerable = np.bincount(query, minlength=len(ahead)) > 0
    correct = np.bincount(query, is_ahead, minlength=len(ahead)).astype(np.int64)
    return (ahead - correct)[answerable]


def recalls(ranks: Ranks) -> dict[str, float]:
    """Computes recall@K in percent, and median and mean ranks counted from 1.

    Recall@K is the share of ranks, counted from 0, below K. The median rank is rounded
    down, as in vsepp: `floor(median) + 1`.

    Args:
      ranks: see `rank`; at least one in each direction.

    Returns:
      `i2t_r1 i2t_r5 i2t_r10 i2t_medr i2t_meanr`, the same for `t2i`, and `rsum`, the
      sum of the six recalls.
    """
    metrics = {}
    for direction, values in (
        ("i2t", ranks.image_to_text),
        ("t2i", ranks.text_to_image),
    ):
        for k in (1, 5, 10):
            metrics[f"{direction}_r{k}"] = 100.0 * float(np.mean(values < k))
        metrics[f"{direction}_medr"] = float(np.floor(np.median(values)) + 1)
        metrics[f"{direction}_meanr"] = float(np.mean(values) + 1)
    metrics["rsum"] = sum(
        metrics[f"{direction}_r{k}"] for direction in ("i2t", "t2i") for k in (1, 5, 10)
    )
    return metrics


def evaluate_folds(
    images: np.ndarray,
    captions: np.ndarray,
    image_id: np.ndarray,
    caption_image_id: np.ndarray,
    similarity: str,
    folds: int = 5,
    biases: Biases | None = None,
) -> dict[str, float]:
    """Averages the metrics over folds of consecutive images.

    Five folds of a split of 5,000 images are COCO's "1K" protocol. If `folds` does not
    divide the number of images, the first folds have one more. A fold ranks its own
    images and their captions.

    Args:
      images: see `rank`.
      captions: see `rank`.
      image_id: see `rank`.
      caption_image_id: see `rank`.
      similarity: see `rank`.
      folds: number of folds, at most that of the images.
      biases: see `rank`.

    Returns:
      The mean of each metric of `recalls`, by name.
    """
    images, captions = map(score_tiles.with_model_axis, (images, captions))
    results = []
    for rows in np.array_split(np.arange(images.shape[1]), folds):
        members = np.flatnonzero(np.isin(caption_image_id, image_id[rows]))
        fold = rank(
            images[:, rows],
            captions[:, members],
            image_id[rows],
            caption_image_id[members],
            similarity,
            biases and Biases(biases.images[rows], biases.captions[members]),
        )
        results.append(recalls(fold))
    return {
        name: float(np.mean([result[name] for result in results]))
        for name in results[0]
    }


def _count_ahead(images, captions, best, biases, similarity):
    """Counts the candidates that do not score below the best correct one.

    Args:
      images: a `score_tiles.Side`.
      captions: the same.
      best: `Ranks` that has scores in place of ranks.
      biases: a `Biases` or None.
      similarity: one of `similarity.SIMILARITIES`.

    Returns:
      A `Ranks` that has counts, of all images and captions.
    """
    image_tiles = _tiles(images, best.image_to_text, biases and biases.images)
    caption_tiles = _tiles(captions, best.text_to_image, biases and biases.captions)
    of_images = [jnp.zeros(images.tile, jnp.int32)] * len(image_tiles)
    of_captions = [jnp.zeros(captions.tile, jnp.int32)] * len(caption_tiles)
    for i, image_tile in enumerate(image_tiles):
        for j, caption_tile in enumerate(caption_tiles):
            scores = score_tiles.tile_of_scores(
                image_tile.embeddings, caption_tile.embeddings, similarity
            )
            of_images[i], of_captions[j] = _add_ahead(
                of_images[i], of_captions[j], scores, image_tile, caption_tile
            )
        jax.block_until_ready(of_images[i])  # keep few tiles in flight
    return Ranks(
        np.concatenate(of_images)[: len(images)].astype(np.int64),
        np.concatenate(of_captions)[: len(captions)].astype(np.int64),
    )


class _Tile(NamedTuple):
    """One side of a tile.

    Attributes:
      embeddings: `[models, rows, embed]` float32.
      exists: bool `[rows]`, false for padding.
      best: `[rows]` float32, best score of the correct candidates of each row.
      bias: `[rows]` float32, subtracted from the scores of each row; or None.
    """

    embeddings: jax.Array
    exists: jax.Array
    best: jax.Array
    bias: jax.Array | None


def _tiles(side, best, bias):
    tiles = side.tiles()
    return [
        _Tile(*parts)
        for parts in zip(
            tiles,
            side.split(np.ones(len(side), bool), False),
            side.split(best, np.inf),
            [None] * len(tiles) if bias is None else side.split(bias, 0),
            strict=True,
        )
    ]


@jax.jit
def _add_ahead(of_images, of_captions, scores, image_tile, caption_tile):
    """Adds the counts of a tile, of each image and of each caption."""
    to_captions = to_images = scores
    if image_tile.bias is not None:
        to_captions = scores - caption_tile.bias
        to_images = scores - image_tile.bias[:, None]
    return (
        of_images
        + count_not_below(
            to_captions, image_tile.best[:, None], 1, where=caption_tile.exists
        ),
        of_captions
        + count_not_below(
            to_images, caption_tile.best, 0, where=image_tile.exists[:, None]
        ),
    )
