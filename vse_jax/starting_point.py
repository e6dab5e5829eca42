"""What a training starts from: pretrained weights, or the model of another run.

`config.start_from` names a run, an export or an imported model. A new run begins with
its parameters, its vocabulary and its architecture. From then on the new run remembers
all of this, and does not need the other one.
"""

import logging
from typing import Any

import ml_collections
from ml_collections.config_flags import config_path

from vse_jax import files, run_config, saved_model
from vse_jax.data.text import vocabularies
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.errors import InputError
from vse_jax.torch_import import weight_file
from vse_jax.torch_import.resolve import began_with_text_weights, resolved

logger = logging.getLogger(__name__)

# Options that describe how photos and captions become inputs.
_OF_INPUTS = (
    "image_size",
    "resize",
    "fit",
    "interpolation",
    "tokenizer",
    "token_lengths",
)
# Options of a model that only its training has.
_OF_TRAINING = {"model.dropout", "model.text_dropout", "model.backbone.batch_norm"}
_WEIGHTS = ("model.backbone.weights", "model.text_weights")


def complete(
    config: ml_collections.ConfigDict, run: dict[str, Any] | None
) -> tuple[ml_collections.ConfigDict, AnyVocabulary | None]:
    """Completes a configuration by what its training starts from.

    Args:
      config: see `configs/common.py`.
      run: description of the run to resume, which remembers what it began with. None
        for a new run.

    Returns:
      A copy with absolute paths. It has all sizes of pretrained weights, or the model
      of the run `config.start_from`, whose options of the model and of its inputs
      replace those of `config`. And the vocabulary; None for that of the dataset or of
      the weights.

    Raises:
      InputError: if there are no such weights or run, or if both are set.
    """
    config = config.copy_and_resolve_references()
    saved = run and run_config.from_json(run["config"])
    for option in _WEIGHTS:
        value = _absolute_weights(option, config, saved)
        config_path.set_value(option, config, value)
    if not config.start_from:
        remembers = began_with_text_weights(run, config)
        return resolved(config, run), vocabularies.of_run(run) if remembers else None
    config.start_from = files.absolute(config.start_from)
    source = run or saved_model.read_description(config.start_from, "best")
    _take_model(config, source)
    return resolved(config), vocabularies.of_run(source)


def _absolute_weights(option, config, saved) -> str:
    """Returns the weights of an option as a run remembers them, see `complete`.

    The run that is resumed may have lost them, so that nothing else tells a folder from
    a package.
    """
    value = run_config.value_of(config, option)
    of_run = saved and run_config.value_of(saved, option)
    if of_run and of_run in (value, files.absolute(value)):
        return of_run
    return weight_file.absolute(value) if value else ""


def _take_model(config: ml_collections.ConfigDict, run: dict[str, Any]) -> None:
    """Takes the model of a run, and how it takes inputs."""
    for option in _WEIGHTS:
        if value := run_config.value_of(config, option):
            raise InputError(
                f"config.{option} is {value!r}, but config.start_from is "
                f"{config.start_from!r}, which has all parameters; set only one"
            )
    saved = run_config.from_json(run["config"])
    names = [f"data.{name}" for name in _OF_INPUTS]
    names += [f"model.{name}" for name in run_config.flatten(config.model)]
    for name in names:
        if name in _OF_TRAINING or name in _WEIGHTS:
            continue
        value, of_run = (run_config.value_of(c, name) for c in (config, saved))
        if value != of_run:
            source = config.start_from
            logger.info(
                "config.%s is %r, as in %s, not %r", name, of_run, source, value
            )
            config_path.set_value(name, config, of_run)
