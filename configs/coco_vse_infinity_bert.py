"""VSE-infinity with BERT on region features of COCO, as in its public code.

    python main.py --config configs/coco_vse_infinity_bert.py \
        --config.data.root=FOLDER --config.model.text_weights=BERT

BERT is a folder of bert-base-uncased, and FOLDER is the same as for `coco_rvse.py`. The
learning rate is 5e-4 for 15 epochs and a tenth of it for ten, and BERT has a tenth of
it. The weight decay is 1e-4, and BERT has its own dropout of 0.1. The public code
reports R@1 of 79.7 and 64.8 (mean of five folds of 1,000 test images). It has not been
trained here.
"""

from configs import coco_vse_infinity, f30k_rvse_bert


def get_config():
    """Returns the configuration."""
    config = coco_vse_infinity.get_config()
    config.model.text_encoder = "bert"
    config.model.text_dropout = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.groups = f30k_rvse_bert.get_config().optimizer.groups
    return config
