"""Import of a whole CLIP or SigLIP in Hugging Face's layout: `--mode=import`.

The workdir has the model as it is, so that `--mode=eval` gives its zero-shot recalls. A
training may start from it, see `config.start_from`.

A photo is embedded by CLIP's visual projection, which becomes the projection of the
image encoder `global`; its bias is zero. SigLIP's pooled feature is its embedding, so
the projection is the identity. A caption is embedded by the text tower's projection.
"""

import logging
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from vse_jax import run_config
from vse_jax.errors import InputError
from vse_jax.models.backbones import sizes_of
from vse_jax.models.pooling import CLS
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import (
    image_branch,
    imported_run,
    parameters,
    pretrained_folder,
    text_weights,
    vision_weights,
)
from vse_jax.torch_import.pretrained_folder import Pretrained
from vse_jax.torch_import.resolve import resolved

logger = logging.getLogger(__name__)


class Kind(NamedTuple):
    """What a whole model consists of.

    Attributes:
      backbone: name of the image tower.
      text_encoder: name of the text tower.
      loss: name of the loss of its pretraining.
      text_projection: name of the layer that embeds a caption.
      scalars: our names of the loss's learned scalars, and those of the file.
    """

    backbone: str
    text_encoder: str
    loss: str
    text_projection: str
    scalars: dict[str, str]


# By the `model_type` in `config.json`.
KINDS = {
    "clip": Kind(
        "clip_vision",
        "clip_text",
        "infonce",
        "text_projection",
        {"log_scale": "logit_scale"},
    ),
    "siglip": Kind(
        "siglip_vision",
        "siglip_text",
        "sigmoid",
        "text_model.head",
        {"log_scale": "logit_scale", "bias": "logit_bias"},
    ),
}
# Options of photos that an import takes from the folder, and what leaves them open.
_OF_PHOTOS = {"image_size": 0, "resize": 0, "fit": "", "interpolation": ""}
_VISUAL_PROJECTION = "visual_projection.weight"


def import_model(config: ml_collections.ConfigDict, workdir: str, folder: str) -> None:
    """Converts a folder with a whole model to a workdir.

    Args:
      config: configuration with `data` and other groups; `model` and `loss` come from
        the folder.
      workdir: folder to create.
      folder: see `pretrained_folder.read`.

    Raises:
      InputError: if the folder has no such model or no tokenizer, if an option does not
        fit the model, if a parameter is missing, unexpected or mis-shaped, or if the
        workdir already has a run.
    """
    found = pretrained_folder.read_config(folder)
    name = found.get("model_type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(
            f"{folder}: its model_type is {name!r}; expected "
            f"{' or '.join(map(repr, KINDS))}: a whole model with both towers; a "
            "training takes a tower alone as config.model.text_weights or "
            "config.model.backbone.weights"
        )
    config = configure(config, kind, folder)
    run_config.check_options(config)  # an evaluation could not change them
    tokens = text_weights.read_tokenizer(config)
    variables = convert(config, kind, pretrained_folder.read(folder), folder)
    # The workdir does not need the folder.
    config.model.backbone.weights = config.model.text_weights = ""
    imported_run.check_shapes(config, len(tokens), _without_scalars(variables), folder)
    imported_run.save(config, tokens, variables, step=0, source=folder, workdir=workdir)


def configure(
    config: ml_collections.ConfigDict, kind: Kind, folder: str
) -> ml_collections.ConfigDict:
    """Returns a copy of `config` with the model, loss and sizes of the folder.

    The size, crop and interpolation of photos are those of the folder too, since
    `config` may be that of another model. The log says where they differ.

    Raises:
      InputError: if the model is not supported.
    """
    given = {name: config.data[name] for name in _OF_PHOTOS}
    config = config.copy_and_resolve_references()
    config.data.update(_OF_PHOTOS)
    config.update_from_flattened_dict(
        {
            "data.vocabulary": "checkpoint",
            "model.image_encoder": "global",
            "model.backbone.name": kind.backbone,
            "model.backbone.weights": folder,
            "model.text_encoder": kind.text_encoder,
            "model.text_weights": folder,
            "model.text_pooling": CLS,
            "model.dropout": 0.0,
            "model.text_dropout": 0.0,
            "model.normalize_image": True,
            "model.absolute": False,
            "loss.name": kind.loss,
            "loss.similarity": "cosine",
            "loss.scale": 0.0,
            "loss.triplet_weight": 0.0,
            "loss.learn_scale": True,
            "loss.views": 1,
            "loss.warmup_mining": "",
            "loss.warmup_epochs": 0,
            "optimizer.groups": (),
            "fine_tuning": (),
        }
    )
    image_branch.use_photos(config)
    config = resolved(config)
    if not config.data.image_size:  # drawn scenes are resized to what the model takes
        side = config.model.backbone.tower.image_size
        config.data.image_size = side
        config.data.resize = 0 if config.data.fit == "stretch" else side
    for name, value in given.items():
        if value and value != config.data[name]:
            logger.warning(
                "config.data.%s is %r, but the import takes the model's own: %r",
                name,
                value,
                config.data[name],
            )
    # A caption is truncated where the tower's positions end, and not before.
    lengths, positions = config.data.token_lengths, config.model.text_tower.positions
    shorter = tuple(length for length in lengths if length < positions)
    config.data.token_lengths = (*shorter, positions)
    return config


def convert(
    config: ml_collections.ConfigDict, kind: Kind, found: Pretrained, folder: str
) -> dict[str, Any]:
    """Returns the variables of the model, and sets `model.embed_dim`.

    Args:
      config: see `configure`; changed in place.
      kind: of the model.
      found: the model.
      folder: its folder, for messages.

    Raises:
      InputError: if a parameter is missing, unexpected, mis-shaped or not finite.
    """
    model, arrays = config.model, found.arrays
    sizes, text_sizes = sizes_of(model.backbone), TextSizes(**model.text_tower)
    image = vision_weights.convert(kind.backbone, arrays, sizes, folder, pooled=True)
    text = text_weights.convert(kind.text_encoder, text_sizes, arrays, folder)
    _check_joint(kind, arrays, sizes.dim, text_sizes.dim, folder)
    projection = _projection(arrays, kind.text_projection)
    model.embed_dim = projection["kernel"].shape[1]
    visual = np.eye(sizes.dim, dtype=np.float32)
    if _VISUAL_PROJECTION in arrays:
        visual = np.asarray(arrays[_VISUAL_PROJECTION], np.float32).T
    scalars = {
        name: np.float32(arrays[theirs].reshape(()))
        for name, theirs in kind.scalars.items()
    }
    return {
        "params": {
            "image": {
                "backbone": image["params"],
                "encoder": {"projection": _with_bias(visual)},
            },
            "text": {"transformer": text, "projection": projection},
            "loss": scalars,
        }
    }


def _check_joint(kind, arrays, dim, text_dim, folder):
    """Checks the parameters that belong to no tower."""
    expected = _joint_shapes(kind, arrays, dim, text_dim)
    expected |= dict.fromkeys(kind.scalars.values(), ())
    shapes = {key: arrays[key].shape for key in expected if key in arrays}
    for theirs in kind.scalars.values():  # arrays of no axis, or of one
        if shapes.get(theirs) == (1,):
            shapes[theirs] = ()
    reason = f"{folder}: not a whole model"
    parameters.refuse(reason, parameters.differences(shapes, expected))
    joint = {key: arrays[key] for key in expected}
    parameters.refuse_impossible_values(reason, joint)


def _joint_shapes(kind, arrays, dim, text_dim):
    """Returns the shapes of the projections of a photo's and a caption's feature."""
    weight = f"{kind.text_projection}.weight"
    if kind.backbone == "siglip_vision":  # the feature of a photo is its embedding
        return {weight: (dim, text_dim), f"{kind.text_projection}.bias": (dim,)}
    found = arrays[weight].shape if weight in arrays else ()
    embed = found[0] if len(found) == 2 else dim
    return {weight: (embed, text_dim), _VISUAL_PROJECTION: (embed, dim)}


def _projection(arrays, name):
    """Returns the parameters of a dense layer; its bias is zero if it has none."""
    kernel = np.asarray(arrays[f"{name}.weight"], np.float32).T
    bias = arrays.get(f"{name}.bias")
    return _with_bias(kernel, None if bias is None else np.asarray(bias, np.float32))


def _with_bias(kernel, bias=None):
    if bias is None:
        bias = np.zeros(kernel.shape[1], np.float32)
    return {"kernel": np.ascontiguousarray(kernel), "bias": bias}


def _without_scalars(variables):
    """Returns the variables of the model without those of its loss."""
    params = {k: v for k, v in variables["params"].items() if k != "loss"}
    return {"params": params}
