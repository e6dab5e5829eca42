"""Puts pretrained weights into the state of a new training."""

import logging
import math

import ml_collections

from vse_jax import loss_scalars, parallel, run_config, saved_model
from vse_jax.array_trees import digest
from vse_jax.models.image_encoders import takes_pooled
from vse_jax.models.vse import with_backbone, with_text_tower
from vse_jax.torch_import import backbone_variables, parameters, text_weights
from vse_jax.train_step import TrainState

logger = logging.getLogger(__name__)


def load_pretrained(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """Returns the state with the weights that a configuration starts from.

    An average over the steps starts from them too.

    Args:
      config: see `configs/common.py`.
      state: state with random parameters.

    Raises:
      InputError: if weights cannot be read, are of another architecture, or differ
        between hosts.
    """
    model = config.model
    if model.text_weights:
        tower = text_weights.load(config)
        _check_same_on_hosts(config, "model.text_weights", tower)
        state = state.replace(params=with_text_tower(state.params, tower))
    if model.backbone.weights:
        pooled = takes_pooled(model.image_encoder, model.pooling)
        backbone = backbone_variables.load(model.backbone, pooled=pooled)
        _check_same_on_hosts(config, "model.backbone.weights", backbone)
        state = state.replace(**with_backbone(state.variables, backbone))
    if config.start_from:
        state = _from_run(config, state)
    if state.average is None:
        return state
    return state.replace(average=state.variables)


def _check_same_on_hosts(config, option, tree):
    if parallel.is_single_host():
        return  # a digest of large weights takes time
    parallel.check_same_on_hosts(
        f"config.{option} is {run_config.value_of(config, option)!r}, which",
        digest(tree),
        "copy the same weights to all hosts",
    )


def _from_run(config, state):
    """Returns the state with the parameters of the run `config.start_from`.

    The learned scalars of the loss are those of the run if it has any, within the
    limits of the loss: SigLIP's scale is larger than InfoNCE's limit.
    """
    variables = saved_model.restore(config.start_from).variables
    _check_same_on_hosts(config, "start_from", variables)
    params = dict(variables["params"])
    scalars = params.pop("loss", {})
    own = dict(state.params)
    own_scalars = own.pop("loss", {})
    found = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    parameters.refuse_other_variables(
        f"{config.start_from}: its parameters are not those of a model of this dataset",
        found,
        {"params": own, "batch_stats": state.batch_stats},
        advice="choose data whose images have the form of that run's",
    )
    if own_scalars:
        known = {name: scalars.get(name, own_scalars[name]) for name in own_scalars}
        params = loss_scalars.limited(config.loss, {**params, "loss": known})
    if own_scalars and scalars:
        logger.info(
            "the loss begins with the scale %.4g of %s, and not with config.loss.scale",
            math.exp(params["loss"]["log_scale"]),
            config.start_from,
        )
    return state.replace(params=params, batch_stats=found["batch_stats"])
