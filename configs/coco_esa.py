"""ESA on region features of COCO: its pooling, and its loss with two views.

    python main.py --config configs/coco_esa.py --config.data.root=FOLDER

Everything else is that of VSE-infinity. In the published code, word vectors also start
from those of GloVe, and a tenth of their numbers is dropped in training. It has not
been trained here. FOLDER is the same as for `coco_rvse.py`.
"""

from configs import coco_vse_infinity


def get_config():
    """Returns the configuration."""
    config = coco_vse_infinity.get_config()
    config.model.pooling = "esa"
    config.loss.views = 2
    return config
