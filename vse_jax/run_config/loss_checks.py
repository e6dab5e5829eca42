"""Validation of the options of the loss, whose values are valid one by one."""

import ml_collections

from vse_jax.errors import InputError
from vse_jax.loss_scalars import LARGEST_SCALES
from vse_jax.losses import MININGS, mines_negatives
from vse_jax.models import image_encoders

_MOST_VIEWS = 16  # of an image and of a caption; the time of a step grows with them


def check_loss(config: ml_collections.ConfigDict) -> None:
    """Checks that the options of the loss fit each other and the inputs.

    Raises:
      InputError: if they do not; names the options.
    """
    loss = config.loss
    if loss.name != "triplet":
        _check_scaled_loss(config)
    elif loss.scale:
        raise InputError(
            f"config.loss.scale is {loss.scale}, but config.loss.name is 'triplet', "
            "which has no scale; set it to 'infonce' or 'sigmoid'"
        )
    if loss.triplet_weight and loss.name != "infonce":
        raise InputError(
            f"config.loss.triplet_weight is {loss.triplet_weight}, but "
            f"config.loss.name is {loss.name!r}; set config.loss.name to 'infonce', or "
            "config.loss.triplet_weight to 0"
        )
    if loss.warmup_mining and not mines_negatives(loss):
        raise InputError(
            f"config.loss.warmup_mining is {loss.warmup_mining!r}, but "
            f"config.loss.name is {loss.name!r}, which mines no negatives; set "
            "config.loss.warmup_mining to ''"
        )
    if loss.views > 1:
        _check_views(config)
    _check_warmup(config)


def _check_views(config):
    model, data = config.model, config.data
    content = image_encoders.ENCODERS[model.image_encoder].content
    reason = ""
    if config.loss.views > _MOST_VIEWS:
        reason = (
            f"each is embedded in every step; expected at most {_MOST_VIEWS} (2 in "
            "ESA's paper)"
        )
    elif config.loss.name == "sigmoid":
        reason = (
            "config.loss.name is 'sigmoid', which compares each pair on its own and "
            "not with the least similar view; set it to 'triplet' or 'infonce'"
        )
    elif content != "regions":
        reason = (
            f"config.model.image_encoder is {model.image_encoder!r}, and a view is a "
            "choice of regions; set config.loss.views to 1"
        )
    elif model.backbone.name:
        reason = (
            f"config.model.backbone.name is {model.backbone.name!r}, and views are of "
            "region features: extract features (--mode=extract), or set "
            "config.loss.views to 1"
        )
    elif not data.augment or not (data.drop_regions or data.drop_words):
        reason = (
            "no regions or words are dropped, so that all views are equal; set "
            "config.data.augment to True and config.data.drop_regions and "
            "config.data.drop_words to 0.2"
        )
    if reason:
        raise InputError(f"config.loss.views is {config.loss.views}, but {reason}")


def _check_scaled_loss(config):
    loss = config.loss
    if loss.similarity != "cosine":
        raise InputError(
            f"config.loss.similarity is {loss.similarity!r}, but config.loss.name is "
            f"{loss.name!r}, which scales cosine similarities; set config.loss.name to "
            "'triplet'"
        )
    largest = LARGEST_SCALES[loss.name]
    if loss.learn_scale and loss.scale > largest:
        raise InputError(
            f"config.loss.scale is {loss.scale}, but a learned scale of {loss.name} is "
            f"at most {largest:g}; set config.loss.learn_scale=False to keep it"
        )


def _check_warmup(config):
    epochs, mining = config.loss.warmup_epochs, config.loss.warmup_mining
    if epochs < 0:
        raise InputError(
            f"config.loss.warmup_epochs is {epochs}; expected at least 0, or at least "
            "1 with config.loss.warmup_mining"
        )
    if epochs and not mining:
        raise InputError(
            f"config.loss.warmup_epochs is {epochs}, but "
            "config.loss.warmup_mining is empty; set it to one of "
            f"{', '.join(map(repr, MININGS))}"
        )
    if mining and not epochs:
        raise InputError(
            f"config.loss.warmup_mining is {mining!r}, but config.loss.warmup_epochs "
            "is 0, so there is no warm-up; set config.loss.warmup_epochs to 1 or more, "
            "or config.loss.warmup_mining to ''"
        )
