"""RVSE++ on region features of Flickr30K, as in its paper.

    python main.py --config configs/f30k_rvse.py --config.data.root=FOLDER

FOLDER contains `train_ims.npy` `[29000, 36, 2048]` (bottom-up attention),
`train_caps.txt`, and the same for `dev` and `test` with 1,000 images each. On a GPU
add `--config.dtype=bfloat16`. It has not been trained here.
"""

from configs import common


def get_config():
    """Returns the configuration."""
    return common.get_config()
