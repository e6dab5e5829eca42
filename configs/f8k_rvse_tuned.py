"""RVSE++ on region features of Flickr8k, by a recipe for few images.

    python main.py --config configs/f8k_rvse_tuned.py --config.data.root=FOLDER

The encoders and the loss, SelHN, are those of `f8k_rvse.py`. The learning rate is twice
as high. Dropout and an average of the parameters over the steps reduce overfitting.
FOLDER is the same as for `f8k_rvse.py`. On 16 regions per image it reaches a validation
rSum of 300.0, and `f8k_rvse.py` 275.2 (means of three seeds); docs/results.md has every
epoch. `f8k_rvse_infonce.py` is the same recipe with InfoNCE, which learns faster at
first.
"""

from configs import f8k_rvse


def get_config():
    """Returns the configuration."""
    config = f8k_rvse.get_config()
    config.model.dropout = 0.2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.average_decay = 0.999
    return config
