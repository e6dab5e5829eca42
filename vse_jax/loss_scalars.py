"""The scale and the bias of similarities in a loss, which may be learned.

Learned scalars are parameters below `loss`. They belong to training alone: embeddings
do not depend on them, and a model without them can be evaluated.

- `log_scale`: logarithm of the scale, so that the scale stays positive.
- `bias`: of the sigmoid loss only.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vse_jax.parameter_groups import Groups

# Scales at the start: CLIP's temperature of 0.07, and SigLIP's.
START_SCALES = {"infonce": 1 / 0.07, "sigmoid": 10.0}
# CLIP keeps its learned scale below this; SigLIP has no limit.
LARGEST_SCALES = {"infonce": 100.0, "sigmoid": math.inf}


class Scalars(NamedTuple):
    """What a loss applies to similarities: `scale * similarity + bias`, float32."""

    scale: jax.Array | float = 1.0
    bias: jax.Array | float = 0.0


UNSCALED = Scalars()


def start_params(loss: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the learned scalars at the start, as a part of the parameters.

    Args:
      loss: `config.loss`.

    Returns:
      `{"loss": ...}` with float32 scalars; {} if nothing is learned.
    """
    if not _learns(loss):
        return {}
    params = {"log_scale": jnp.float32(math.log(_start_scale(loss)))}
    if loss.name == "sigmoid":
        params["bias"] = jnp.float32(loss.bias)
    return {"loss": params}


def values(loss: ml_collections.ConfigDict, params: dict) -> Scalars:
    """Returns the scale and the bias of a step.

    Args:
      loss: `config.loss`.
      params: all parameters.
    """
    if loss.name == "triplet":
        return UNSCALED
    if _learns(loss):
        learned = params["loss"]
        return Scalars(jnp.exp(learned["log_scale"]), learned.get("bias", 0.0))
    return Scalars(_start_scale(loss), loss.bias if loss.name == "sigmoid" else 0.0)


def limited(loss: ml_collections.ConfigDict, params: dict) -> dict:
    """Returns the parameters after an update, with a scale that is not too large.

    The limit applies to the parameter and not to the scale in the loss, where a scale
    beyond it would have no gradient that brings it back.
    """
    if not _learns(loss) or math.isinf(LARGEST_SCALES[loss.name]):
        return params
    largest = math.log(LARGEST_SCALES[loss.name])
    learned = params["loss"]
    log_scale = jnp.minimum(learned["log_scale"], largest)
    return {**params, "loss": {**learned, "log_scale": log_scale}}


def metrics(loss: ml_collections.ConfigDict, params: dict) -> dict[str, jax.Array]:
    """Returns the learned scale and bias by name, for the log."""
    if not _learns(loss):
        return {}
    scalars = values(loss, params)
    bias = {"bias": scalars.bias} if loss.name == "sigmoid" else {}
    return {"scale": scalars.scale, **bias}


def groups(loss: ml_collections.ConfigDict) -> Groups:
    """Returns the parameter groups of the learned scalars, to follow those of the user.

    Weight decay would pull the scale to 1 and the bias to 0, which is no simpler model.
    So a group of the user decays them only by a number of its own, see `optimizer`.
    """
    if not _learns(loss):
        return ()
    options = {"learning_rate": 1.0, "weight_decay": 0.0, "frozen": False}
    return (ml_collections.ConfigDict({"pattern": "loss/.*", **options}),)


def _learns(loss):
    return loss.name != "triplet" and loss.learn_scale


def _start_scale(loss):
    return loss.scale or START_SCALES[loss.name]
