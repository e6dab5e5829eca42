"""RVSE++'s image encoder with BERT on region features of COCO.

    python main.py --config configs/coco_rvse_bert.py --config.data.root=FOLDER \
        --config.model.text_weights=BERT

BERT is the same as for `f30k_rvse_bert.py`, and FOLDER as for `coco_rvse.py`. It has
not been trained here.
"""

from configs import coco_rvse, f30k_rvse_bert


def get_config():
    """Returns the configuration."""
    config = coco_rvse.get_config()
    config.model.text_encoder = "bert"
    config.optimizer.groups = f30k_rvse_bert.get_config().optimizer.groups
    return config
