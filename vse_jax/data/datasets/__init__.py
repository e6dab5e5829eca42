"""Datasets of images with captions, opened by `prepare`.

An example is an image: `image_id` (string), `captions` (strings) and one of `regions`
(float16 `[regions, dim]`), `feature` (float `[dim]`) and `image` (encoded, uint8).
"""

from vse_jax.data.datasets.preparation import prepare

__all__ = ["prepare"]
