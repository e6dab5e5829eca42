"""Reads the pretrained weights of any backbone."""

import ml_collections

from vse_jax.models.backbones import sizes_of
from vse_jax.torch_import import backbone_weights, vision_weights


def load(options: ml_collections.ConfigDict, *, pooled: bool) -> dict:
    """Reads the weights of a backbone; code in a file is never run.

    Args:
      options: `config.model.backbone`, with the sizes of the weights.
      pooled: whether to include the layers of the pooled feature.

    Returns:
      Variables of `create_backbone`: nested dicts of float32 numpy arrays.

    Raises:
      InputError: if the weights cannot be read, or if a parameter is missing,
        unexpected or mis-shaped.
    """
    sizes = sizes_of(options)
    if sizes is None:
        return backbone_weights.load(options.name, options.weights, pooled=pooled)
    return vision_weights.load(options.name, options.weights, sizes, pooled=pooled)
