"""What the configurations of VSE++ share; not an experiment.

VSE++ (Faghri et al., BMVC 2018) embeds one feature per image by a projection, captions
by the last state of a GRU, and trains on the hardest negative of the batch. Features
are precomputed, or come from photos through a backbone that is frozen in the first
stage.
"""

import ml_collections

from configs import common

IMAGES = ("photos", "features")


def get_config(images: str) -> ml_collections.ConfigDict:
    """Returns the settings of the paper.

    Args:
      images: `photos`; or `features`, one per image, in the numpy layout of the PyTorch
        repositories or written by `--mode=extract`.

    Raises:
      ValueError: if `images` is not one of them.
    """
    if images not in IMAGES:
        raise ValueError(f"expected photos or features behind the colon, not {images}")
    config = common.get_config()
    config.epochs = 30
    config.data.augment = images == "photos"  # crops and flips; words are not dropped
    config.data.region_dim = 0
    config.model.image_encoder = "global"
    config.model.text_encoder = "gru"
    config.loss.mining = "hardest"
    config.loss.reduction = "sum"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-4
    if images == "photos":
        config.evaluation_batch_size = 128
        config.data.builder = "karpathy_images"
        config.data.image_size = 224
        config.data.validation_split = "val"
        config.model.backbone.name = "resnet152"
        config.optimizer.groups = (frozen_backbone(),)
    return config


def frozen_backbone() -> ml_collections.ConfigDict:
    """Returns the parameter group that keeps the backbone as it is."""
    return common.parameter_group("image/backbone/.*", frozen=True)


def fine_tuning() -> tuple[ml_collections.ConfigDict, ...]:
    """Returns the paper's second stage, which also trains the backbone."""
    return (common.fine_tuning_stage(epochs=15, learning_rate=2e-5),)


def use_all_negatives(config: ml_collections.ConfigDict) -> None:
    """Turns VSE++ into VSE0: sums over all negatives, does not normalize images."""
    config.loss.mining = "all"
    config.loss.warmup_mining = ""
    config.loss.warmup_epochs = 0
    config.model.normalize_image = False


def use_order(config: ml_collections.ConfigDict) -> None:
    """Turns VSE++ into Order++, with Order-embeddings (Vendrov et al., ICLR 2016)."""
    config.loss.similarity = "order"
    config.loss.margin = 0.05
    config.model.absolute = True
    config.optimizer.learning_rate = 1e-3
