"""Import of published checkpoints of PyTorch: the program's `--mode=import`.

It converts vsepp's `.pth.tar` or a `.pth` of vse_infty or RVSE++ to a workdir for
`--mode=eval`. The architecture and its sizes come from the file.
"""

import functools
from typing import Any

import ml_collections

from vse_jax import run_config
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.similarity import SIMILARITIES
from vse_jax.torch_import import (
    image_branch,
    imported_run,
    text_branch,
    torch_checkpoint,
    training_options,
)
from vse_jax.torch_import.torch_checkpoint import TorchCheckpoint

_MARGIN, _EPSILON = 0.2, 0.01  # defaults, if the options in the file lack them


def import_checkpoint(
    config: ml_collections.ConfigDict, workdir: str, checkpoint: str, vocabulary: str
) -> None:
    """Converts a published checkpoint to a workdir for evaluation.

    Args:
      config: configuration with `data` and other groups; `model` and `loss` come from
        the file.
      workdir: folder to create.
      checkpoint: path of the checkpoint file.
      vocabulary: path of the vocabulary file, which numbers the words; or, with BERT,
        tokenizer: folder, package, `tokenizer.json` or `vocab.txt`.

    Raises:
      InputError: if a file cannot be read or contains code, if the model is not
        supported, if an option of the file or of `config` is invalid, if a parameter is
        missing, unexpected or mis-shaped, if the vocabulary is not that of the model,
        or if the workdir already has a run.
    """
    loaded = torch_checkpoint.read(checkpoint)
    config = configure(config, loaded, checkpoint, vocabulary)
    run_config.check_options(config)  # an evaluation could not change them
    words = text_branch.read_vocabulary(loaded, vocabulary, checkpoint)
    variables = convert(config, words, loaded, checkpoint)
    imported_run.save(
        config,
        words,
        variables,
        step=loaded.step,
        source=checkpoint,
        workdir=workdir,
    )


def configure(
    config: ml_collections.ConfigDict,
    loaded: TorchCheckpoint,
    path: str,
    vocabulary: str = "",
) -> ml_collections.ConfigDict:
    """Returns a copy of `config` with the model, loss and sizes of the checkpoint.

    Args:
      config: the configuration.
      loaded: the checkpoint.
      path: path of the checkpoint, for messages.
      vocabulary: see `import_checkpoint`.

    Raises:
      InputError: if no model here supports the parameters and options of the
        checkpoint, or if an option has an invalid value.
    """
    image = image_branch.options(loaded, path)
    text = text_branch.options(loaded, path, vocabulary)
    config = config.copy_and_resolve_references()
    image_branch.configure_data(config, loaded, path)
    of_both = {
        "model.absolute": training_options.flag(loaded.options, "use_abs", False, path),
        "model.dropout": 0.0,
        "model.text_dropout": 0.0,
        "model.pooling": "gpo",
        "model.text_pooling": "",
        "model.text_weights": "",
    }
    loss = _loss_options(image["model.image_encoder"], loaded.options, path)
    config.update_from_flattened_dict(image | text | of_both | loss)
    return config


def convert(
    config: ml_collections.ConfigDict,
    words: AnyVocabulary,
    loaded: TorchCheckpoint,
    path: str,
) -> dict:
    """Returns the variables of the model that `config` describes.

    Raises:
      InputError: if a parameter is missing, mis-shaped or not finite.
    """
    loaded.refuse_impossible_values(path)
    variables = image_branch.variables(loaded, config, path)
    text = text_branch.variables(loaded, config, words, path)
    for collection, tree in text.items():
        variables.setdefault(collection, {}).update(tree)
    imported_run.check_shapes(config, len(words), variables, path)
    return variables


def _loss_options(encoder: str, options: dict, path: str) -> dict[str, Any]:
    number = functools.partial(training_options.number, options, path=path, least=0)
    return {
        "loss.name": "triplet",
        "loss.scale": 0.0,
        "loss.triplet_weight": 0.0,
        "loss.views": 1,
        "loss.mining": _mining(encoder, options, path),
        "loss.margin": number("margin", _MARGIN),
        "loss.epsilon": number("epsilon", _EPSILON),
        "loss.similarity": training_options.choice(
            options, "measure", "cosine", path, SIMILARITIES
        ),
        "loss.reduction": "sum" if encoder == "global" else "mean",
    }


def _mining(encoder, options, path):
    mines = training_options.flag(options, "max_violation", True, path)
    if encoder == "region_residual":
        return "selective"
    return "hardest" if mines else "all"
