"""Computes the features of photos on this host's devices."""

from collections.abc import Callable, Iterable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vse_jax import parallel
from vse_jax.data.input_pipeline import Batch
from vse_jax.errors import InputError
from vse_jax.extraction.pca import PCA
from vse_jax.models.backbones import (
    create_backbone,
    fast_apply,
    sizes_of,
    spec_of,
)
from vse_jax.models.normalization import l2_normalize
from vse_jax.models.pooling import pool_grid
from vse_jax.torch_import import backbone_variables

STORED_DTYPE = jnp.float16
LARGEST = float(jnp.finfo(STORED_DTYPE).max)


class FeatureExtractor:
    """A backbone, followed by pooling of its grid, a PCA and a cast to float16."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        variables: dict,
        pca: PCA | None = None,
    ):
        """Puts the parameters on the devices.

        Args:
          config: `model.backbone`, `extract` and `dtype` are used.
          variables: variables of the backbone.
          pca: PCA to project the features with, if any.
        """
        self._run = parallel.map_over_local_devices(
            make_extract_step(config),
            (parallel.REPLICATED, parallel.SPLIT),
            parallel.SPLIT,
        )
        self._parameters = parallel.replicate_on_host((variables, pca))

    def extract(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields each batch with its features while the next batch is computed.

        Args:
          batches: batches with `image`, uint8 `[batch, height, width, 3]`, and
            `image_index`, -1 for padding.

        Yields:
          A batch and its features without padding, float16 `[images, regions, dim]` or
          `[images, dim]`. Features beyond the range of float16 are infinite.
        """
        waiting = None
        for batch in batches:
            image = parallel.shard({"image": batch["image"]})["image"]
            computed = self._run(self._parameters, image)
            if waiting is not None:
                yield _fetched(*waiting)
            waiting = batch, computed
        if waiting is not None:
            yield _fetched(*waiting)


def _fetched(batch, features):
    return batch, parallel.fetch_rows(features)[batch["image_index"] >= 0]


def feature_shape(
    config: ml_collections.ConfigDict, variables: dict, image: np.ndarray
) -> tuple[int, ...]:
    """Returns the shape of an image's features, `[regions, dim]` or `[dim]`.

    Args:
      config: see `FeatureExtractor`.
      variables: variables of the backbone.
      image: uint8 `[batch, height, width, 3]`.

    Raises:
      InputError: if `config.extract.pool` does not fit the grid, or if
        `config.extract.pca_dim` is larger than the dimension of the features.
    """
    step = make_extract_step(config, pool=False)
    *_, dim = shape = jax.eval_shape(step, (variables, None), image).shape[1:]
    if config.extract.pool:
        _check_pool(config.extract.pool, shape[0], image)
        shape = config.extract.pool**2, dim
    if config.extract.pca_dim > dim:
        raise InputError(
            f"config.extract.pca_dim is {config.extract.pca_dim}, but features have "
            f"{dim} dimensions; set it to at most {dim}"
        )
    if config.extract.pca_dim:
        shape = *shape[:-1], config.extract.pca_dim
    return shape


def _check_pool(pool, regions, image):
    height, width = image.shape[1:3]
    if height != width:
        raise InputError(
            f"config.extract.pool is {pool}, but the photos of {height}x{width} pixels "
            "are not square; set config.data.image_size, or config.extract.pool to 0"
        )
    rows = round(regions**0.5)
    if pool > rows:
        raise InputError(
            f"config.extract.pool is {pool}, but the grid of a photo has {rows}x{rows} "
            f"regions; set it to at most {rows}, or to 0 to keep all of them"
        )


def load_variables(config: ml_collections.ConfigDict, image: np.ndarray) -> dict:
    """Returns the backbone's variables: pretrained, or random for the stem.

    Args:
      config: `model.backbone`, `extract.regions` and `seed` are used.
      image: uint8 `[batch, height, width, 3]`, used for its shape.

    Raises:
      InputError: if the weights are invalid.
    """
    backbone = config.model.backbone
    if backbone.weights:
        pooled = config.extract.regions == "pooled"
        return backbone_variables.load(backbone, pooled=pooled)
    return _backbone(config).init(jax.random.key(config.seed), image[:1])


def _backbone(config) -> nn.Module:
    backbone = config.model.backbone
    return create_backbone(
        backbone.name,
        sizes_of(backbone),
        pooled=config.extract.regions == "pooled",
        dtype=jnp.dtype(config.dtype or "float32"),
    )


def make_extract_step(config, pool: bool = True) -> Callable:
    """Returns per-device code that maps parameters and uint8 images to features.

    Args:
      config: `model.backbone`, `extract` and `dtype` are used.
      pool: False ignores `config.extract.pool`.

    Returns:
      A function of `(variables, pca)` and uint8 `[batch, height, width, 3]`. It returns
      float16 `[batch, regions, dim]` or `[batch, dim]`. `pca` may be None.
    """
    backbone = config.model.backbone
    spec = spec_of(backbone.name, sizes_of(backbone))
    apply = fast_apply(spec, _backbone(config))

    def step(parameters, image):
        variables, pca = parameters
        features = apply(variables, image).astype(jnp.float32)
        if pool and config.extract.pool:
            features = pool_grid(features, config.extract.pool)
        if pca is not None:
            features = pca.project(features)
        if config.extract.regions == "pooled":
            features = l2_normalize(features)  # as VSE++ and `ImageEncoder` do
        return features.astype(STORED_DTYPE)

    return step
