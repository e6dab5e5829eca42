"""RVSE++'s head on the patches of a frozen SigLIP, on COCO.

    python main.py --config configs/coco_siglip_head.py --config.data.root=COCO \
        --config.model.backbone.weights=FOLDER

COCO contains Karpathy's `dataset_coco.json` with the photos in `train2014` and
`val2014`. FOLDER is a SigLIP in Hugging Face's layout, such as
`siglip-base-patch16-224`. Any size works, and so do CLIP and DINOv2, with
`--config.model.backbone.name=clip_vision` or `dinov2`.

To compute the patches once, extract them and train on them:

    python main.py --config configs/extract.py:siglip_vision --mode=extract \
        --config.data.root=COCO --config.model.backbone.weights=FOLDER
    python main.py --config configs/coco_siglip_head.py:features \
        --config.data.root=runs/extract_siglip_vision/features

It was not trained here, for lack of SigLIP's weights.
"""

from configs import common, vsepp


def get_config(images="photos"):
    """Returns the configuration.

    Args:
      images: `photos`, or `features` that `--mode=extract` wrote.

    Raises:
      ValueError: if `images` is not one of them.
    """
    if images not in vsepp.IMAGES:
        raise ValueError(f"expected photos or features behind the colon, not {images}")
    config = common.get_config()
    config.data.train_split = "train+restval"
    config.data.folds = 5  # each has 1,000 images
    config.data.region_dim = 0  # that of the weights
    if images == "photos":
        config.data.builder = "karpathy_images"
        config.data.validation_split = "val"
        config.model.backbone.name = "siglip_vision"
        config.optimizer.groups = (vsepp.frozen_backbone(),)
    return config
