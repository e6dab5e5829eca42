"""Writes an imported model to a workdir, as a training would."""

from typing import Any

import jax
import ml_collections
import numpy as np

from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.errors import InputError, reporting_writes
from vse_jax.models.vse import create_model
from vse_jax.run_config import IMPORTED_FROM, describe
from vse_jax.torch_import import parameters
from vse_jax.train_step import TrainState


def save(
    config: ml_collections.ConfigDict,
    vocabulary: AnyVocabulary,
    variables: dict[str, Any],
    *,
    step: int,
    source: str,
    workdir: str,
) -> None:
    """Writes the checkpoint of an imported model and prints its path.

    Args:
      config: describes the model.
      vocabulary: vocabulary of the model.
      variables: of the model, `params` and perhaps `batch_stats`.
      step: number of updates, or 0.
      source: path that the model is from.
      workdir: folder to create.

    Raises:
      InputError: if the workdir already has a run.
    """
    state = TrainState(
        step=np.int32(step),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state={},
    )
    checkpoints = Checkpoints(workdir)
    try:
        if checkpoints.steps():
            raise InputError(
                f"{workdir} already has a run; choose another --workdir, or delete "
                "this one"
            )
        run = describe(config, vocabulary) | {IMPORTED_FROM: source}
        with reporting_writes(workdir):
            checkpoints.save(state, run)
            checkpoints.wait()
        print(f"checkpoint: {checkpoints.path(step)}")
    finally:
        checkpoints.close()


def check_shapes(
    config: ml_collections.ConfigDict,
    vocabulary_size: int,
    variables: dict[str, Any],
    path: str,
) -> None:
    """Checks that variables are those of the model that a configuration describes.

    Args:
      config: describes the model.
      vocabulary_size: number of different tokens.
      variables: of the model.
      path: path that they are from, for messages.

    Raises:
      InputError: if a parameter is missing, unexpected or mis-shaped.
    """
    parameters.refuse_other_variables(
        f"{path}: its parameters are not those of the model that its options describe",
        variables,
        _expected(config, vocabulary_size),
    )


def _expected(config, vocabulary_size):
    """Returns the shapes of the variables of the model that `config` describes."""
    captions = {
        "tokens": np.zeros((1, 2), np.int32),
        "token_count": np.ones(1, np.int32),
    }
    model = create_model(config, vocabulary_size, train=False)
    batch = _example_images(config) | captions
    return jax.eval_shape(model.init, jax.random.key(0), batch)


def _example_images(config):
    dim, size = config.data.region_dim, config.data.image_size
    if config.model.backbone.name:
        return {"image": np.zeros((1, size, size, 3), np.uint8)}
    if config.model.image_encoder == "global":
        return {"feature": np.zeros((1, dim), np.float32)}
    return {
        "regions": np.zeros((1, 2, dim), np.float32),
        "region_count": np.ones(1, np.int32),
    }
