"""RVSE++'s image encoder with BERT on region features of Flickr30K.

    python main.py --config configs/f30k_rvse_bert.py --config.data.root=FOLDER \
        --config.model.text_weights=BERT

BERT is a folder with `config.json`, `model.safetensors` and `vocab.txt`, such as a
download of bert-base-uncased. Its learning rate is a tenth of that of the other
parameters, as in VSE-infinity. FOLDER is the same as for `f30k_rvse.py`. It has not
been trained here.
"""

from configs import common, f30k_rvse


def get_config():
    """Returns the configuration."""
    config = f30k_rvse.get_config()
    config.model.text_encoder = "bert"
    config.optimizer.groups = (
        common.parameter_group("text/transformer/.*", learning_rate=0.1),
    )
    return config
