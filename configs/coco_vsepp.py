"""VSE++ on COCO, as in its paper: a frozen ResNet-152, then fine-tuning.

    python main.py --config configs/coco_vsepp.py --config.data.root=FOLDER \
        --config.model.backbone.weights=resnet152.pth
    python main.py --config configs/coco_vsepp.py:features --config.data.root=FOLDER

FOLDER contains Karpathy's `dataset_coco.json` with COCO's photos in `train2014` and
`val2014`. For `:features` it contains `train_ims.npy` `[images, 2048]`,
`train_caps.txt`, and the same for `dev` and `testall`.
`--config.data.builder=coco_captions` downloads the photos instead. The weights are
torchvision's. `--config.data.crops=10` evaluates ten crops of each photo. It has
not been trained here.
"""

from configs import vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = vsepp.get_config(images)
    config.optimizer.decay_epochs = (15,)
    config.data.folds = 5  # each has 1,000 images
    if images == "photos":
        config.data.train_split = "train+restval"
        config.fine_tuning = vsepp.fine_tuning()
    else:
        config.data.test_split = "testall"
    return config
