"""Ranks images for captions and captions for images, and computes the metrics.

Nothing is sorted. A rank is the number of wrong candidates that score at least as high
as the best correct one, counted in tiles of the similarity matrix on the device. Ties
count against the model, so that collapsed embeddings do not get a high recall.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax.evaluation.counting import count_not_below
from vse_jax.similarity import SIMILARITIES

TILE_IMAGES = 512
# Tiles are padded to multiples of this, so that the same inner loop computes every
# score and equal embeddings give exactly equal scores.
TILE_MULTIPLE = 128


class Ranks(NamedTuple):
    """Ranks, counted from 0, int64.

    Attributes:
      image_to_text: `[images]`, rank of the best own caption of each image that has
        captions.
      text_to_image: `[captions]`, rank of each caption's own image.
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
    similarity: str = "cosine",
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
    images, captions = with_model_axis(images), with_model_axis(captions)
    if biases is None:
        biases = Biases(np.zeros(images.shape[1]), np.zeros(captions.shape[1]))
    tiles = _group_by_image(np.asarray(image_id), np.asarray(caption_image_id))
    image_tiles = [
        _tile(images, image_id, biases.images, rows, -1) for rows in tiles.images
    ]
    caption_tiles = [
        _tile(captions, caption_image_id, biases.captions, rows, -2)
        for rows in tiles.captions
    ]
    # Images and their captions are in tiles of the same number, on the diagonal.
    best = [
        _best_own(*pair, similarity=similarity)
        for pair in zip(image_tiles, caption_tiles, strict=True)
    ]
    image_counts = [0] * len(image_tiles)
    caption_counts = [0] * len(caption_tiles)
    for i, image_tile in enumerate(image_tiles):
        for j, caption_tile in enumerate(caption_tiles):
            of_images, of_captions = _count_wrong(
                image_tile,
                caption_tile,
                best[i][0],
                best[j][1],
                similarity=similarity,
                own_tiles=i == j,
            )
            image_counts[i] += of_images
            caption_counts[j] += of_captions
        jax.block_until_ready(image_counts[i])  # keep few tiles in flight

    image_ranks = _restore_order(image_counts, tiles.images, images.shape[1])
    has_caption = np.isin(image_id, caption_image_id)
    return Ranks(
        image_ranks[has_caption],
        _restore_order(caption_counts, tiles.captions, captions.shape[1]),
    )


def recalls(ranks: Ranks) -> dict[str, float]:
    """Computes recall@K in percent, and median and mean ranks counted from 1.

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
    similarity: str = "cosine",
    folds: int = 5,
    biases: Biases | None = None,
) -> dict[str, float]:
    """Averages the metrics over folds of consecutive images, of equal size.

    Five folds of a split of 5,000 images are COCO's "1K" protocol. The other arguments
    are those of `rank`.
    """
    images, captions = with_model_axis(images), with_model_axis(captions)
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


class _Tiles(NamedTuple):
    """Row numbers of each tile, -1 for padding; all tiles have the same length."""

    images: list[np.ndarray]
    captions: list[np.ndarray]


def _group_by_image(image_id, caption_image_id):
    """Puts all images and captions of an ID into tiles of the same number."""
    unique, inverse, count = np.unique(
        image_id, return_inverse=True, return_counts=True
    )
    tile_of_id = (np.cumsum(count) - count) // TILE_IMAGES
    _, tile_of_id = np.unique(tile_of_id, return_inverse=True)
    image_tile = tile_of_id[inverse]
    caption_tile = tile_of_id[np.searchsorted(unique, caption_image_id)]
    number = tile_of_id.max() + 1
    return _Tiles(_members(image_tile, number), _members(caption_tile, number))


def _members(tile, number):
    members = [np.flatnonzero(tile == i) for i in range(number)]
    longest = max(len(rows) for rows in members)
    size = -(-longest // TILE_MULTIPLE) * TILE_MULTIPLE
    return [np.pad(rows, (0, size - len(rows)), constant_values=-1) for rows in members]


class _Tile(NamedTuple):
    """Embeddings `[models, rows, embed]`, IDs and biases `[rows]` of one side."""

    embeddings: jax.Array
    id: jax.Array
    bias: jax.Array


def _tile(embeddings, ids, bias, rows, padding_id):
    ids = np.where(rows >= 0, np.asarray(ids)[rows], padding_id).astype(np.int32)
    bias = np.asarray(bias, np.float32)[rows]
    return _Tile(*map(jnp.asarray, (embeddings[:, rows], ids, bias)))


def _scores(images, captions, similarity):
    """Returns the scores of captions for images, and those of images for captions."""
    scores = jax.vmap(SIMILARITIES[similarity])(images.embeddings, captions.embeddings)
    scores = scores.mean(0)
    return scores - captions.bias, scores - images.bias[:, None]


@functools.partial(jax.jit, static_argnames="similarity")
def _best_own(image_tile, caption_tile, similarity):
    """Returns the best score of each image with its captions, and of each caption."""
    of_captions, of_images = _scores(image_tile, caption_tile, similarity)
    own = image_tile.id[:, None] == caption_tile.id
    return (
        jnp.where(own, of_captions, -jnp.inf).max(1),
        jnp.where(own, of_images, -jnp.inf).max(0),
    )


@functools.partial(jax.jit, static_argnames=("similarity", "own_tiles"))
def _count_wrong(
    image_tile, caption_tile, image_best, caption_best, *, similarity, own_tiles
):
    """Counts the wrong candidates that do not score below the best correct one.

    Args:
      own_tiles: whether the tiles have the same number. In others, all are wrong.
    """
    of_captions, of_images = _scores(image_tile, caption_tile, similarity)
    images_exist, captions_exist = (image_tile.id >= 0)[:, None], caption_tile.id >= 0
    wrong = image_tile.id[:, None] != caption_tile.id if own_tiles else True
    return (
        count_not_below(of_captions, image_best[:, None], 1, wrong & captions_exist),
        count_not_below(of_images, caption_best, 0, wrong & images_exist),
    )


def _restore_order(counts, tiles, number):
    ranks = np.zeros(number, np.int64)
    for count, rows in zip(counts, tiles, strict=True):
        exists = rows >= 0
        ranks[rows[exists]] = np.asarray(count)[exists]
    return ranks


def with_model_axis(embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings as float32 `[models, rows, embed]`."""
    embeddings = np.asarray(embeddings, np.float32)
    return embeddings[None] if embeddings.ndim == 2 else embeddings
