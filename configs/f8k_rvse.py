"""RVSE++ on region features of Flickr8k.

    python main.py --config configs/f8k_rvse.py --config.data.root=FOLDER

FOLDER holds `train_ims.npy`, `train_caps.txt` and the same for `dev` (and `test`), with
regions of 256 dimensions. README.md has the result and the time it takes.
"""

from configs import common


def get_config():
    """Returns the configuration."""
    config = common.get_config()
    config.epochs = 12
    config.data.region_dim = 256
    config.model.embed_dim = 512
    config.optimizer.decay_epochs = (8,)
    return config
