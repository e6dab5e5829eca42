"""RVSE++ on region features of Flickr8k.

    python main.py --config configs/f8k_rvse.py --config.data.root=FOLDER

FOLDER contains `train_ims.npy`, `train_caps.txt` and the same for `dev` (and `test`),
with regions of 256 dimensions, or is what `configs/extract.py` writes. On 16 regions
per image it reaches a validation rSum of 275.2 (mean of three seeds);
docs/results.md has every epoch.
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
