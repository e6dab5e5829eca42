"""Order++ on COCO: Order-embeddings trained on the hardest negatives.

    python main.py --config configs/coco_order.py --config.data.root=FOLDER \
        --config.model.backbone.weights=resnet152.pth
    python main.py --config configs/coco_order.py:features --config.data.root=FOLDER

FOLDER and the weights are the same as for `coco_vsepp.py`. With
`--config.loss.mining=all` it is Order0. It has not been trained here.
"""

from configs import coco_vsepp, vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = coco_vsepp.get_config(images)
    vsepp.use_order(config)
    return config
