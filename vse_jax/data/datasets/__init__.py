"""Datasets of images with captions, opened by `make_builder` and `prepare`.

An example is an image: `image_id` (string), `captions` (strings) and one of `regions`
(float16 `[regions, dim]`), `feature` (float `[dim]`) and `image` (encoded, uint8).
"""

from vse_jax.data.datasets.preparation import make_builder, prepare

__all__ = ["make_builder", "prepare"]
