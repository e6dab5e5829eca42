"""Puts pretrained weights into the state of a new training."""

import ml_collections

from vse_jax import starting_point
from vse_jax.models.image_encoders import takes_pooled
from vse_jax.models.vse import with_backbone, with_text_tower
from vse_jax.torch_import import backbone_variables, text_weights
from vse_jax.train_step import TrainState


def load_pretrained(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """Returns the state with the pretrained weights that a configuration names.

    An average over the steps starts from them too.

    Args:
      config: see `configs/common.py`.
      state: state with random parameters.

    Raises:
      InputError: if weights cannot be read or are of another architecture.
    """
    model = config.model
    if config.start_from:
        state = state.replace(**starting_point.load(config, state.variables))
    if model.text_weights:
        tower = text_weights.load(config)
        state = state.replace(params=with_text_tower(state.params, tower))
    if model.backbone.weights:
        pooled = takes_pooled(model.image_encoder, model.pooling)
        backbone = backbone_variables.load(model.backbone, pooled=pooled)
        state = state.replace(**with_backbone(state.variables, backbone))
    if state.average is None:
        return state
    return state.replace(average=state.variables)
