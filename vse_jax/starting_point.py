"""What a training begins with: its own run, another run, or pretrained weights.

`config.start_from` names a run, an export or an imported model. A new run begins with
its parameters, its vocabulary and its architecture. From then on the new run remembers
all of this, and the other one is needed no more.
"""

import ml_collections
from flax import traverse_util

from vse_jax import files, run_config, saved_model
from vse_jax.data.text import vocabularies
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.models.vse import of_encoders
from vse_jax.torch_import import parameters, text_weights
from vse_jax.torch_import.resolve import resolved

# Options that decide what an input means to the parameters. Other options of
# `config.model` only matter in training.
_DATA_OPTIONS = ("image_size", "resize", "fit", "interpolation", "tokenizer")
_OF_TRAINING = ("dropout",)
_WEIGHTS = {"text_weights": "", "backbone.weights": ""}


def completed(
    config: ml_collections.ConfigDict, saved: dict | None
) -> tuple[ml_collections.ConfigDict, AnyVocabulary | None]:
    """Completes the configuration of a training by what it begins with.

    Args:
      config: see `configs/common.py`.
      saved: description of the run in the workdir; None if there is none.

    Returns:
      A copy of `config` with the architecture of the run that it starts from, and with
      the sizes of pretrained weights; and the vocabulary, or None for a new one.

    Raises:
      InputError: if there is nothing to start from, or if weights are of another model.
    """
    config = config.copy_and_resolve_references()
    if config.start_from:
        config.start_from = files.absolute(config.start_from)
        run = saved or saved_model.read_description(config.start_from, "best")
        _take_architecture(config, run_config.from_json(run["config"]))
        return resolved(config), vocabularies.of_run(run)
    vocabulary = text_weights.take_from_run(config, saved)
    return resolved(config), vocabulary


def _take_architecture(config, other):
    own = {name: config.model[name] for name in _OF_TRAINING}
    batch_norm = config.model.backbone.batch_norm
    config.model.update(other.model)
    config.model.update_from_flattened_dict(_WEIGHTS | own)
    config.model.backbone.batch_norm = batch_norm
    for name in _DATA_OPTIONS:
        config.data[name] = other.data[name]


def load(config: ml_collections.ConfigDict, variables: dict) -> dict:
    """Returns the variables of the model that `config.start_from` names.

    Args:
      config: configuration that `completed` returned.
      variables: of the new model; those of its loss are kept.

    Raises:
      InputError: if the model cannot be read, or if its parameters are others.
    """
    path = config.start_from
    found = saved_model.restore(path, "best").variables
    found = {
        "params": variables["params"] | of_encoders(found["params"]),
        "batch_stats": found.get("batch_stats", {}),
    }
    parameters.refuse(
        f"{path}: its parameters are not those of the model that the options describe",
        parameters.differences(_shapes(found), _shapes(variables)),
    )
    return found


def _shapes(tree):
    flat = traverse_util.flatten_dict(tree, sep=".")
    return {name: leaf.shape for name, leaf in flat.items()}
