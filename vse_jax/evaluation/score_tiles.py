"""Scores of images and captions in tiles: the whole matrix is never stored.

One compiled program computes all tiles, also those of single pairs, and tiles have one
shape. The score of a pair is therefore exactly the same wherever it is computed, and
equal embeddings have exactly equal scores.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vse_jax import parallel
from vse_jax.similarity import SIMILARITIES

TILE_IMAGES, TILE_CAPTIONS = 512, 2560
# Tiles of small splits are smaller, but multiples of this: then the same inner loop
# computes all scores of a tile.
TILE_MULTIPLE = 128


class Side(NamedTuple):
    """The images or the captions in tiles; the last one is padded.

    Attributes:
      embeddings: `[models, rows, embed]` float32.
      tile: rows of a tile.
    """

    embeddings: np.ndarray
    tile: int

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self.embeddings.shape[1]

    def split(self, values: np.ndarray, padding: float) -> list[jax.Array]:
        """Splits `[rows]` into `[tile]` of each tile, of which the last is padded."""
        values = np.pad(values, (0, -len(values) % self.tile), constant_values=padding)
        return [jnp.asarray(part) for part in values.reshape(-1, self.tile)]

    def take(self, rows: np.ndarray) -> jax.Array:
        """Returns at most `tile` rows as a tile, `[models, tile, embed]`."""
        padding = (0, self.tile - len(rows))
        return jnp.asarray(np.pad(self.embeddings[:, rows], ((0, 0), padding, (0, 0))))

    def tiles(self) -> list[jax.Array]:
        """Returns all tiles, `[models, tile, embed]`."""
        starts = range(0, len(self), self.tile)
        rows = np.arange(len(self))
        return [self.take(rows[start : start + self.tile]) for start in starts]


def sides(images: np.ndarray, captions: np.ndarray) -> tuple[Side, Side]:
    """Returns images and captions for `tile_of_scores` and `scores_of_pairs`.

    Args:
      images: `[images, embed]`, or `[models, images, embed]` for an ensemble.
      captions: `[captions, embed]` or `[models, captions, embed]`.
    """
    return _side(images, TILE_IMAGES), _side(captions, TILE_CAPTIONS)


def _side(embeddings, largest):
    embeddings = with_model_axis(embeddings)
    rows = -(-embeddings.shape[1] // TILE_MULTIPLE) * TILE_MULTIPLE
    return Side(embeddings, min(largest, rows))


@functools.partial(parallel.jit_in_float32, static_argnames="similarity")
def tile_of_scores(
    images: jax.Array, captions: jax.Array, similarity: str
) -> jax.Array:
    """Computes the scores of a tile, averaged over the models.

    Args:
      images: `[models, images, embed]`.
      captions: `[models, captions, embed]`.
      similarity: one of `similarity.SIMILARITIES`.

    Returns:
      `[images, captions]` float32.
    """
    return jax.vmap(SIMILARITIES[similarity])(images, captions).mean(0)


def scores_of_pairs(
    images: Side,
    captions: Side,
    image: np.ndarray,
    caption: np.ndarray,
    similarity: str,
) -> np.ndarray:
    """Computes the scores of pairs, exactly as in the tiles.

    Args:
      images: see `sides`.
      captions: see `sides`.
      image: int `[pairs]`, ascending rows of the images.
      caption: int `[pairs]`, rows of the captions.
      similarity: one of `similarity.SIMILARITIES`.

    Returns:
      `[pairs]` float32.
    """
    scores = np.empty(len(image), np.float32)
    start = 0
    while start < len(image):
        part = slice(start, start + captions.tile)
        rows, slot = np.unique(image[part], return_inverse=True)
        if len(rows) > images.tile:  # as many pairs as have different images that fit
            rows = rows[: images.tile]
            slot = slot[: np.searchsorted(slot, images.tile)]
        part = slice(start, start + len(slot))
        tile = tile_of_scores(
            images.take(rows), captions.take(caption[part]), similarity
        )
        scores[part] = np.asarray(tile)[slot, np.arange(len(slot))]
        start = part.stop
    return scores


def with_model_axis(embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings as float32 `[models, rows, embed]`."""
    embeddings = np.asarray(embeddings, np.float32)
    return embeddings[None] if embeddings.ndim == 2 else embeddings
