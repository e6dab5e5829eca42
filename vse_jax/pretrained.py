"""Pretrained weights of backbones."""


def load(name, weights):
    """To be written."""
    raise NotImplementedError
