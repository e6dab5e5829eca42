"""VSE++ on Flickr30K, as in its paper: a frozen ResNet-152, then fine-tuning.

    python main.py --config configs/f30k_vsepp.py --config.data.root=FOLDER \
        --config.model.backbone.weights=resnet152.pth
    python main.py --config configs/f30k_vsepp.py:features --config.data.root=FOLDER

FOLDER contains Karpathy's `dataset_flickr30k.json` and the photos in `images`. For
`:features` it contains `train_ims.npy` `[images, 2048]`, `train_caps.txt`, and the same
for `dev` and `test`. The weights are torchvision's. It has not been trained here.
"""

from configs import vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = vsepp.get_config(images)
    config.optimizer.decay_epochs = (15,)
    if images == "photos":
        config.fine_tuning = vsepp.fine_tuning()
    return config
