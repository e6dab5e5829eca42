"""VSE-infinity on region features of COCO.

    python main.py --config configs/coco_vse_infinity.py --config.data.root=FOLDER

Its image encoder applies the MLP to the raw regions. The first epoch trains on all
negatives, because the hardest negatives give no gradient at first. FOLDER is the same
as for `coco_rvse.py`. It has not been trained here.
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
