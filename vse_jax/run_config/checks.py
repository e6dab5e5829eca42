"""Validation of the options of a configuration."""

import math

import ml_collections

from configs import common
from vse_jax import parallel, parameter_groups
from vse_jax.data.batch_options import token_lengths
from vse_jax.data.photo_geometry import FITS, INTERPOLATIONS
from vse_jax.data.text import tokenizers
from vse_jax.errors import InputError
from vse_jax.losses import LOSSES, MININGS
from vse_jax.models import image_encoders, text_encoders
from vse_jax.models.backbones import BACKBONES, Spec, sizes_of, spec_of
from vse_jax.models.pooling import CLS, POOLINGS
from vse_jax.models.text_encoders.transformer import TOWERS
from vse_jax.optimizer import OPTIMIZERS, SCHEDULES
from vse_jax.run_config.loss_checks import check_loss
from vse_jax.run_config.values import (
    check_at_least_one,
    check_choice,
    check_less,
    check_numbers,
    check_positive,
    one_of,
    require,
    value_of,
)
from vse_jax.similarity import SIMILARITIES

_GALLERY_CHOICES = {
    "gallery.dtype": ("float16", "float32"),
    "gallery.index": ("", "ivf", "hnsw"),
    "gallery.hubness": (False, True),
}
CHOICES = _GALLERY_CHOICES | {
    "dtype": ("", "float32", "bfloat16"),
    "mapping": tuple(parallel.BACKENDS),
    "data.tokenizer": tuple(tokenizers.TOKENIZERS),
    "data.vocabulary": ("dataset", "checkpoint"),
    "data.crops": (1, 10),
    "data.fit": ("", *FITS),
    "data.interpolation": ("", *INTERPOLATIONS),
    "model.image_encoder": tuple(image_encoders.ENCODERS),
    "model.backbone.name": ("", *BACKBONES),
    "model.backbone.batch_norm": ("trained", "frozen"),
    "model.text_encoder": text_encoders.ENCODERS,
    "model.pooling": tuple(POOLINGS),
    "model.text_pooling": ("", *POOLINGS),
    "loss.name": LOSSES,
    "loss.learn_scale": (False, True),
    "loss.mining": MININGS,
    "loss.warmup_mining": ("", *MININGS),
    "loss.reduction": ("mean", "sum"),
    "loss.similarity": tuple(SIMILARITIES),
    "optimizer.name": OPTIMIZERS,
    "optimizer.sharded": (False, True),
    "evaluation.suite": ("recall", "cxc", "eccv"),
    "evaluation.hubness": (False, True),
}
_AT_LEAST_ONE = (
    "batch_size",
    "microbatches",
    "evaluation_batch_size",
    "epochs",
    "log_every_steps",
    "checkpoint_every_steps",
    "evaluate_every_epochs",
    "evaluation.hubness_k",
    "gallery.bank_size",
    "loss.views",
    "model.embed_dim",
    "model.word_dim",
)
# Sizes of arrays, whose axes have fewer than 2**31 entries.
_SIZES = (
    "batch_size",
    "microbatches",
    "evaluation_batch_size",
    "data.region_dim",
    "model.embed_dim",
    "model.word_dim",
)
_AT_LEAST_ZERO = (
    "data.folds",
    "data.region_dim",
    "evaluation.hubness_alpha",
    "loss.epsilon",
    "loss.margin",
    "loss.scale",
    "loss.triplet_weight",
    "optimizer.gradient_clip",
    "optimizer.weight_decay",
    "profile_at_step",
    "stuck_steps",
)
EXTRACTION_CHOICES = {"extract.regions": ("grid", "pooled")}


def check_options(config: ml_collections.ConfigDict) -> None:
    """Checks the options of a training or an evaluation.

    Raises:
      InputError: if an option is invalid; names it and the expected values.
    """
    # A seed of JAX has 32 bits. Numbers that differ in higher bits would be one seed.
    require(config, "seed", 0 <= config.seed < 2**32, "0 to 4294967295")
    stages = _stages(config)
    optimizers = ("optimizer.", *stages)
    _check_choices(config)
    _check_groups(config, *(f"{optimizer}groups" for optimizer in optimizers))
    check_numbers(config, int, "data.token_lengths", "data.scene_counts")
    token_lengths(config)
    decay_epochs = (f"{optimizer}decay_epochs" for optimizer in optimizers)
    check_numbers(config, int | float, *decay_epochs)
    check_positive(
        config,
        "optimizer.decay_factor",
        *(f"{optimizer}learning_rate" for optimizer in optimizers),
    )
    epochs = (f"{stage}epochs" for stage in stages)
    check_at_least_one(config, *_AT_LEAST_ONE, *epochs)
    check_less(config, 2**31, *_SIZES)
    for option in _AT_LEAST_ZERO:
        is_right = 0 <= value_of(config, option) < math.inf
        require(config, option, is_right, "at least 0")
    _check_rates(config)
    is_finite = math.isfinite(config.loss.bias)
    require(config, "loss.bias", is_finite, "a finite number")
    check_loss(config)
    _check_schedule(config, "optimizer.", "")
    for stage in stages:
        _check_schedule(config, stage, stage)
    _check_photos(config)
    _check_image_size(config)
    _check_backbone(config.model.backbone, config.model.image_encoder)
    _check_class_tokens(config.model)
    _check_text_encoder(config.model)


def check_gallery_options(options: ml_collections.ConfigDict) -> None:
    """Checks `config.gallery`.

    Raises:
      InputError: if an option is invalid; names it and the expected values.
    """
    config = ml_collections.ConfigDict({"gallery": options})
    for option, allowed in _GALLERY_CHOICES.items():
        check_choice(config, option, allowed)
    check_at_least_one(config, "gallery.bank_size")


def check_extraction_options(config: ml_collections.ConfigDict) -> None:
    """Checks the options of an extraction of features.

    Raises:
      InputError: if an option is invalid; names it and the expected values.
    """
    for option in (
        "dtype",
        "data.fit",
        "data.interpolation",
        "model.backbone.name",
        "extract.regions",
    ):
        check_choice(config, option, (CHOICES | EXTRACTION_CHOICES)[option])
    check_positive(config, "extract.shard_megabytes")
    for option in ("extract.pool", "extract.pca_dim"):
        require(config, option, value_of(config, option) >= 0, "at least 0")
    require(config, "data.crops", config.data.crops == 1, "1 to extract features")
    _check_photos(config)
    _check_backbone_of_extraction(config)
    _check_image_size(config)


def _check_backbone_of_extraction(config):
    backbone, extract = config.model.backbone, config.extract
    require(config, "model.backbone.name", backbone.name, one_of(BACKBONES))
    if not backbone.weights and backbone.name != "stem":
        raise InputError(
            "config.model.backbone.weights is empty, and features of random weights "
            f"are useless; set it to a file or package with weights of {backbone.name}"
        )
    if extract.regions == "pooled":
        if not spec_of(backbone.name, sizes_of(backbone)).pooled_dim:
            raise InputError(
                f"config.extract.regions is 'pooled', but {backbone.name} has no "
                "pooled feature; set it to 'grid'"
            )
        if extract.pool:
            raise InputError(
                f"config.extract.pool is {extract.pool}, but "
                "config.extract.regions='pooled' gives no grid to pool; set only one "
                "of them"
            )


def _stages(config):
    """Checks what is listed as later stages; returns the prefixes of their options."""
    fields = set(common.fine_tuning_stage(epochs=1, learning_rate=1.0))
    stages = []
    for number, stage in enumerate(config.fine_tuning):
        option = f"fine_tuning[{number}]"
        if not isinstance(stage, ml_collections.ConfigDict) or set(stage) != fields:
            raise InputError(
                f"config.{option} is not a stage; create it with "
                "configs.common.fine_tuning_stage(epochs=..., learning_rate=...)"
            )
        stages.append(f"{option}.")
    return stages


def _check_choices(config):
    for option, allowed in CHOICES.items():
        check_choice(config, option, allowed)


def _check_groups(config, *options):
    for option in options:
        groups = value_of(config, option)
        parameter_groups.check_options(groups, option)
        for number, group in enumerate(groups):
            if group.weight_decay and config.optimizer.name == "adam":
                raise InputError(
                    f"config.{option}[{number}].weight_decay is {group.weight_decay}, "
                    "but config.optimizer.name is 'adam', which has no weight decay; "
                    "set it to 'adamw'"
                )


def _check_rates(config):
    for option in ("data.drop_regions", "data.drop_words"):
        is_right = 0 <= value_of(config, option) <= 1
        require(config, option, is_right, "a number from 0 to 1")
    for option in ("model.dropout", "model.text_dropout", "optimizer.average_decay"):
        is_right = 0 <= value_of(config, option) < 1
        require(config, option, is_right, "at least 0 and less than 1")


def _check_photos(config):
    if config.data.fit == "stretch":
        for option, neutral in (("crops", 1), ("resize", 0)):
            value = config.data[option]
            if value != neutral:
                raise InputError(
                    f"config.data.{option} is {value}, but config.data.fit is "
                    "'stretch', which crops nothing; set config.data.fit to 'crop', or "
                    f"config.data.{option} to {neutral}"
                )
    # Formats of photos have 16 bits for a side.
    check_less(config, 2**16, "data.image_size", "data.resize")
    _check_resize(config.data.resize, config.data.image_size)
    share = config.data.allowed_missing
    require(config, "data.allowed_missing", 0 <= share <= 1, "a number from 0 to 1")
    check_at_least_one(config, "data.maximum_pixels")


def _check_resize(resize, size):
    if resize and not size:
        raise InputError(
            f"config.data.resize is {resize}, but config.data.image_size is 0, so no "
            "photo is resized; set config.data.image_size to the height and width of a "
            "crop in pixels, or config.data.resize to 0"
        )
    if resize and resize < size:
        raise InputError(
            f"config.data.resize is {resize}, which is smaller than "
            f"config.data.image_size ({size}); set it to {size} or more, or to 0"
        )


def _check_image_size(config):
    name = config.model.backbone.name
    if not name or not config.data.image_size:  # 0 keeps photos as they are stored
        return
    spec = spec_of(name, sizes_of(config.model.backbone))
    if not spec.multiple:  # the sizes of the weights are not known yet
        return
    require(
        config,
        "data.image_size",
        fits_backbone(config.data.image_size, spec),
        f"at least {spec.region_size} with the backbone {name}"
        + (f", and a multiple of {spec.multiple}" if spec.multiple > 1 else ""),
    )


def fits_backbone(size: int, spec: Spec) -> bool:
    """Returns whether a backbone takes images of `size` pixels in height and width."""
    # The images of a pretraining may leave pixels beyond the last patch.
    divides = size % spec.multiple == 0 or size == spec.image_size
    return size >= spec.region_size and divides


def _check_schedule(config, optimizer, stage):
    check_choice(config, f"{optimizer}schedule", SCHEDULES)
    epochs = value_of(config, f"{stage}epochs")
    warmup = value_of(config, f"{optimizer}warmup_epochs")
    expected = f"at least 0 and less than config.{stage}epochs, which is {epochs}"
    require(config, f"{optimizer}warmup_epochs", 0 <= warmup < epochs, expected)


def _check_backbone(backbone, image_encoder):
    if backbone.name == "stem" and image_encoder == "global":
        raise InputError(
            "config.model.backbone.name is 'stem', which gives no global feature; set "
            "config.model.image_encoder to 'region_residual', 'region_parallel' or "
            "'region_linear'"
        )
    if backbone.weights and not backbone.name:
        raise InputError(
            f"config.model.backbone.weights is {backbone.weights!r}, but "
            "config.model.backbone.name is empty; set it to the architecture of the "
            f"weights, {one_of(BACKBONES)}"
        )


def _check_class_tokens(model):
    """Checks that what is pooled by `cls` has a class token."""
    backbone = model.backbone
    of_regions = image_encoders.ENCODERS[model.image_encoder].content == "regions"
    if model.pooling == CLS and of_regions:
        sizes = sizes_of(backbone)
        if not (backbone.name and spec_of(backbone.name, sizes).class_token):
            raise InputError(
                f"config.model.pooling is {CLS!r}, but config.model.backbone.name="
                f"{backbone.name!r} has no class token; choose another pooling or "
                "backbone"
            )
    text_pooling = model.text_pooling or model.pooling
    if text_pooling == CLS and model.text_encoder == "bigru_gpo":
        raise InputError(
            f"the captions' pooling is {CLS!r}, but config.model.text_encoder="
            f"{model.text_encoder!r} has no class token; set config.model.text_pooling "
            "to another pooling, or choose a transformer"
        )


def _check_text_encoder(model):
    if model.text_weights and model.text_encoder not in TOWERS:
        raise InputError(
            f"config.model.text_weights is {model.text_weights!r}, but "
            f"config.model.text_encoder is {model.text_encoder!r}, which is no "
            f"transformer; set config.model.text_encoder to {one_of(TOWERS)}, or "
            "config.model.text_weights to ''"
        )
    positions = model.text_tower.positions
    if positions and model.text_encoder not in TOWERS:  # they limit any captions
        raise InputError(
            f"config.model.text_tower.positions is {positions}, but "
            f"config.model.text_encoder is {model.text_encoder!r}, which is no "
            "transformer; set it to 0, and limit captions by config.data.token_lengths"
        )
    if model.text_dropout and model.text_encoder != "bert":
        raise InputError(
            f"config.model.text_dropout is {model.text_dropout}, but "
            f"config.model.text_encoder is {model.text_encoder!r}; expected 'bert'; "
            "set it to 0"
        )
