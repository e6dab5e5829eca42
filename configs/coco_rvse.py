"""RVSE++ on region features of COCO, as in its paper.

    python main.py --config configs/coco_rvse.py --config.data.root=FOLDER
    python main.py --config configs/coco_rvse.py --config.data.root=FOLDER --mode=eval

FOLDER contains `train_ims.npy` `[113287, 36, 2048]` (bottom-up attention),
`train_caps.txt`, and the same for `dev` and `testall` with 5,000 images each. The
evaluation prints both protocols, 5K and the mean of five folds of 1K. On a GPU
add `--config.dtype=bfloat16`. It has not been trained here.
"""

from configs import common


def get_config():
    """Returns the configuration."""
    config = common.get_config()
    config.data.test_split = "testall"
    config.data.folds = 5  # each has 1,000 images
    return config
