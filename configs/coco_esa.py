"""VSE-infinity on region features of COCO, with ESA's pooling in place of GPO.

    python main.py --config configs/coco_esa.py --config.data.root=FOLDER

ESA's own training also compares two random views of each image and caption, which is
not implemented. Only the pooling is that of the paper. It has not been trained here.
FOLDER is the same as for `coco_rvse.py`.
"""

from configs import coco_vse_infinity


def get_config():
    """Returns the configuration."""
    config = coco_vse_infinity.get_config()
    config.model.pooling = "esa"
    return config
