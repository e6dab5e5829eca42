"""RVSE++ on region features of Flickr30K, as in its paper.

    python main.py --config configs/f30k_rvse.py --config.data.root=FOLDER

FOLDER holds `train_ims.npy` `[29000, 36, 2048]` (bottom-up attention) and
`train_caps.txt`, and the same for `dev` and `test`: 1,000 images each. On a TPU or GPU
add `--config.dtype=bfloat16`.
"""

from configs import common


def get_config():
    """Returns the configuration."""
    return common.get_config()
