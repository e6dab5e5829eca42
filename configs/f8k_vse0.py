"""VSE0 on photos of Flickr8k: VSE++'s baseline, which sums over all negatives.

    python main.py --config configs/f8k_vse0.py --config.data.root=FOLDER
    python main.py --config configs/f8k_vse0.py:features --config.data.root=FOLDER

FOLDER and what to install are those of `f8k_vsepp.py`.
"""

from configs import f8k_vsepp, vsepp


def get_config(images="photos"):
    """Returns the configuration."""
    config = f8k_vsepp.get_config(images)
    vsepp.use_all_negatives(config)
    return config
