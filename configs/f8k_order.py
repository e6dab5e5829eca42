"""Order++ on photos of Flickr8k: Order-embeddings trained on the hardest negatives.

    python main.py --config configs/f8k_order.py --config.data.root=FOLDER
    python main.py --config configs/f8k_order.py:features --config.data.root=FOLDER

FOLDER and the packages to install are the same as for `f8k_vsepp.py`. docs/results.md
has the results.
"""

from configs import f8k_vsepp, vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = f8k_vsepp.get_config(images)
    vsepp.use_order(config)
    return config
