"""VSE0 on COCO: the baseline of VSE++, which sums over all negatives.

    python main.py --config configs/coco_vse0.py --config.data.root=FOLDER \
        --config.model.backbone.weights=resnet152.pth
    python main.py --config configs/coco_vse0.py:features --config.data.root=FOLDER

FOLDER and the weights are the same as for `coco_vsepp.py`. It has not been trained
here.
"""

from configs import coco_vsepp, vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = coco_vsepp.get_config(images)
    vsepp.use_all_negatives(config)
    return config
