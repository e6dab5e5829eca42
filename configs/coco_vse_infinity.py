"""VSE-infinity on region features of COCO: the baseline on the same encoders.

    python main.py --config configs/coco_vse_infinity.py --config.data.root=FOLDER

The image encoder feeds its MLP with the raw regions, and the first epoch, in which the
hardest negative gives no gradient, trains on all negatives. FOLDER is that of
`coco_rvse.py`.
"""

from configs import coco_rvse


def get_config():
    """Returns the configuration."""
    config = coco_rvse.get_config()
    config.model.image_encoder = "region_parallel"
    config.loss.mining = "hardest"
    config.loss.warmup_mining = "all"
    config.loss.warmup_epochs = 1
    config.loss.reduction = "sum"
    return config
