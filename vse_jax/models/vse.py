"""Visual-semantic embeddings: an image encoder and a text encoder."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from vse_jax.models import image_encoders, text_encoders
from vse_jax.models.backbones import sizes_of
from vse_jax.models.image_encoders import Backbone
from vse_jax.models.normalization import l2_normalize
from vse_jax.models.transformers.sizes import TextSizes


class VSE(nn.Module):
    """Embeds images and captions independently into one space.

    Attributes:
      image_encoder: one of `image_encoders.ENCODERS`.
      text_encoder: one of `text_encoders.ENCODERS`.
      vocabulary_size: number of different tokens.
      word_dim: dimensions of a word's embedding.
      embed_dim: dimensions of the space.
      backbone: computes regions or a feature from photos, if the batch contains photos.
      pooling: of regions and words, one of `pooling.POOLINGS`.
      text_pooling: of words, if it is another one; also `cls` with a transformer.
      text_tower: sizes of the transformer, if the text encoder is one.
      normalize_image: whether image embeddings are scaled to unit length (not in VSE0).
      absolute: whether to take absolute values of embeddings, as Order-embeddings do.
      dropout: share of the numbers of regions, features and word embeddings that are
        set to 0 if there is a key `dropout`; the batch then has `image_id`.
      text_dropout: dropout within the text encoder, if it is BERT.
      dtype: of the encoders' arithmetic; embeddings are float32.
      train: whether batch normalization uses the batch's statistics and updates the
        running ones.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
    """

    image_encoder: str
    text_encoder: str
    vocabulary_size: int
    word_dim: int
    embed_dim: int
    backbone: Backbone | None = None
    pooling: str = "gpo"
    text_pooling: str = ""
    text_tower: TextSizes | None = None
    normalize_image: bool = True
    absolute: bool = False
    dropout: float = 0.0
    text_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    train: bool = False
    gather_over_devices: Callable = lambda array: array

    def setup(self):  # noqa: D102
        self.image = image_encoders.ImageEncoder(
            self.image_encoder,
            self.embed_dim,
            self.dtype,
            self.train,
            self.gather_over_devices,
            self.backbone,
            self.pooling,
            self.dropout,
        )
        self.text = text_encoders.create(
            self.text_encoder,
            vocabulary_size=self.vocabulary_size,
            word_dim=self.word_dim,
            embed_dim=self.embed_dim,
            dtype=self.dtype,
            pooling=self.text_pooling or self.pooling,
            dropout=self.dropout,
            text_dropout=self.text_dropout,
            sizes=self.text_tower,
        )

    def embed_images(self, batch: dict) -> jax.Array:
        """Maps a batch with images, regions or features to `[batch, embed]` float32.

        With several views of the regions (see `image_encoders.RegionEncoder`), the
        result is `[batch, views, embed]`.
        """
        embedded = self.image(batch)
        if self.normalize_image:
            embedded = l2_normalize(embedded)
        return jnp.abs(embedded) if self.absolute else embedded

    def embed_captions(self, batch: dict) -> jax.Array:
        """Maps a batch with tokens to `[batch, embed]` float32.

        Tokens `[batch, views, time]` are embedded to `[batch, views, embed]`.
        """
        views = batch["tokens"].shape[1:-1]
        embedded = l2_normalize(
            self.text(_with_row_per_view(batch) if views else batch)
        )
        if views:
            embedded = embedded.reshape(-1, *views, self.embed_dim)
        return jnp.abs(embedded) if self.absolute else embedded

    def __call__(self, batch: dict) -> tuple[jax.Array, jax.Array]:
        """Returns the embeddings of the batch's images and of its captions."""
        return self.embed_images(batch), self.embed_captions(batch)


def create_model(
    config: ml_collections.ConfigDict,
    vocabulary_size: int,
    *,
    train: bool,
    train_backbone: bool = True,
    gather_over_devices: Callable = lambda array: array,
) -> VSE:
    """Returns the model that `config.model` and `config.dtype` describe.

    Args:
      config: see `configs/common.py`.
      vocabulary_size: number of different tokens.
      train: whether batch normalization uses the batch's statistics and updates the
        running ones.
      train_backbone: whether any parameter of the backbone is trained. If not, the
        backbone is computed without gradients and as in evaluation.
      gather_over_devices: concatenates `[rows, ...]` of all devices.
    """
    options = dict(config.model)
    backbone = options.pop("backbone")
    del options["text_weights"]
    options["text_tower"] = TextSizes(**options["text_tower"])
    if backbone.name:
        train_norm = backbone.batch_norm == "trained"
        options["backbone"] = Backbone(
            backbone.name, train_backbone, train_norm, sizes_of(backbone)
        )
    return VSE(
        **options,
        vocabulary_size=vocabulary_size,
        dtype=jnp.dtype(config.dtype or "float32"),
        train=train,
        gather_over_devices=gather_over_devices,
    )


def _with_row_per_view(batch):
    """Returns captions `[batch * views]` of captions `[batch, views]`."""
    views = batch["tokens"].shape[1]
    # Dropout takes these numbers, so they differ between the views.
    view_id = batch["image_id"][:, None] * views + jnp.arange(views)
    return {
        "tokens": batch["tokens"].reshape(-1, batch["tokens"].shape[-1]),
        "token_count": batch["token_count"].reshape(-1),
        "image_id": view_id.reshape(-1),
    }


# Only the functions below contain paths of the model's variables.


def content_dim(variables: dict) -> int:
    """Returns the dimensions of a region or feature that the image encoder expects."""
    return variables["params"]["image"]["encoder"]["projection"]["kernel"].shape[0]


def backbone_of(params: dict) -> dict:
    """Returns the backbone's part of a tree like `params`; {} without a backbone."""
    return params["image"].get("backbone", {})


def with_backbone(variables: dict, backbone: dict) -> dict:
    """Returns the model's variables with the backbone's variables replaced.

    Args:
      variables: of the model, nested dicts below `params` and `batch_stats`.
      backbone: variables of the backbone in the same collections.
    """
    return variables | {
        collection: {
            **variables[collection],
            "image": {**variables[collection].get("image", {}), "backbone": tree},
        }
        for collection, tree in backbone.items()
    }


def text_tower_of(params: dict) -> dict:
    """Returns the transformer's part of a tree like `params`; {} without one."""
    return params["text"].get("transformer", {})


def with_text_tower(params: dict, tower: dict) -> dict:
    """Returns the model's parameters with those of the transformer replaced."""
    return {**params, "text": {**params["text"], "transformer": tower}}


def of_encoders(params: dict) -> dict[str, dict]:
    """Splits a tree like `params` into the parts of the image and text encoder."""
    return {name: params[name] for name in ("image", "text")}
