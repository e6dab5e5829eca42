"""VSE0 on photos of Flickr8k: the baseline of VSE++, which sums over all negatives.

    python main.py --config configs/f8k_vse0.py --config.data.root=FOLDER
    python main.py --config configs/f8k_vse0.py:features --config.data.root=FOLDER

FOLDER and the packages to install are the same as for `f8k_vsepp.py`. docs/results.md
has the results.
"""

from configs import f8k_vsepp, vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = f8k_vsepp.get_config(images)
    vsepp.use_all_negatives(config)
    return config
