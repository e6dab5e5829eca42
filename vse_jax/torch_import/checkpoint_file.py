"""Import of published checkpoints of PyTorch: the program's `--mode=import`.

It converts vsepp's `.pth.tar` or a `.pth` of vse_infty or RVSE++ to a workdir for
`--mode=eval`. The architecture and its sizes come from the file.
"""

from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError, reporting_writes
from vse_jax.models.backbones import SPECS
from vse_jax.models.vse import create_model
from vse_jax.run_config import IMPORTED_FROM, describe
from vse_jax.torch_import import (
    backbone_weights,
    parameter_names,
    parameters,
    torch_file,
    vocabulary_file,
)
from vse_jax.train_step import TrainState

_BRANCHES = ("img", "txt")  # in the order in which those repositories save them
_BACKBONE = "img.cnn."
_MARGIN, _EPSILON = 0.2, 0.01  # defaults, if the options in the file lack them


class TorchCheckpoint(NamedTuple):
    """The content of a checkpoint file of the PyTorch repositories.

    Attributes:
      arrays: parameters and running statistics by PyTorch's names, with the prefix
        `img.` or `txt.`.
      backbone: parameters and running statistics of vsepp's CNN, if there is one.
      options: options of the training.
      step: number of updates, or of epochs if updates were not counted.
    """

    arrays: dict[str, np.ndarray]
    backbone: dict[str, np.ndarray]
    options: dict[str, Any]
    step: int


def import_checkpoint(
    config: ml_collections.ConfigDict, workdir: str, checkpoint: str, vocabulary: str
) -> None:
    """Converts a published checkpoint to a workdir for evaluation.

    Args:
      config: configuration with `data` and other groups; `model` and `loss` come from
        the file.
      workdir: folder to create.
      checkpoint: path of the checkpoint file.
      vocabulary: path of the vocabulary file, which numbers the words.

    Raises:
      InputError: if a file cannot be read or contains code, if the model is not
        supported, if a parameter is missing, unexpected or mis-shaped, if the
        vocabulary is not that of the model, or if the workdir already has a run.
    """
    loaded = read(checkpoint)
    words, word_count = vocabulary_file.read(vocabulary)
    config = configure(config, loaded, checkpoint)
    embeddings = len(loaded.arrays["txt.embed.weight"])
    if embeddings != word_count:
        raise InputError(
            f"{vocabulary}: has {word_count} words, but the model of {checkpoint} has "
            f"{embeddings}; set --vocabulary to the one that it was trained with"
        )
    variables = convert(config, words, loaded, checkpoint)
    state = TrainState(
        step=np.int32(loaded.step),
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
        run = describe(config, words) | {IMPORTED_FROM: checkpoint}
        with reporting_writes(workdir):
            checkpoints.save(state, run)
            checkpoints.wait()
        print(f"checkpoint: {checkpoints.path(loaded.step)}")
    finally:
        checkpoints.close()


def read(path: str) -> TorchCheckpoint:
    """Reads a checkpoint of vsepp, vse_infty or RVSE++; see `torch_file.read`.

    Raises:
      InputError: if the file cannot be read or is not such a checkpoint.
    """
    content = torch_file.read(path)
    try:
        branches, options = content["model"], dict(content["opt"])
        arrays = {
            f"{branch}.{name.removeprefix('module.')}": np.asarray(array)
            for branch, tree in zip(_BRANCHES, branches, strict=True)
            for name, array in tree.items()
        }
        backbone = {
            name.removeprefix(_BACKBONE): arrays.pop(name)
            for name in list(arrays)
            if name.startswith(_BACKBONE)
        }
        step = int(content.get("Eiters") or content.get("epoch") or 0)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: not a checkpoint of vsepp, vse_infty or RVSE++; expected 'model' "
            "(the parameters of the image encoder and of the text encoder) and 'opt'"
        ) from None
    return TorchCheckpoint(arrays, backbone, options, step)


def configure(
    config: ml_collections.ConfigDict, loaded: TorchCheckpoint, path: str
) -> ml_collections.ConfigDict:
    """Returns a copy of `config` with the model, loss and sizes of the checkpoint.

    Raises:
      InputError: if no model here supports the options of the checkpoint.
    """
    arrays, options = loaded.arrays, loaded.options
    _refuse_unknown(arrays, path)
    if options.get("no_txtnorm"):
        raise InputError(
            f"{path}: its caption embeddings are not normalized (no_txtnorm), which no "
            "text encoder here supports; evaluate it with its original code"
        )
    config = config.copy_and_resolve_references()
    if loaded.backbone:
        _configure_photos(config, options, path)
    encoder = _image_encoder(arrays, options)
    order = options.get("measure", "cosine") == "order"
    both_directions = parameter_names.has_both_directions(arrays)
    config.update_from_flattened_dict(
        {
            "data.region_dim": arrays["img.fc.weight"].shape[1],
            "data.vocabulary": "checkpoint",
            "data.tokenizer": _tokenizer(encoder),
            "model.image_encoder": encoder,
            "model.text_encoder": "bigru_gpo" if both_directions else "gru",
            "model.embed_dim": arrays["img.fc.weight"].shape[0],
            "model.word_dim": arrays["txt.embed.weight"].shape[1],
            "model.normalize_image": not options.get("no_imgnorm", False),
            "model.absolute": bool(options.get("use_abs", False)),
            "model.pooling": "gpo",
            "loss.name": "triplet",
            "loss.scale": 0.0,
            "loss.triplet_weight": 0.0,
            "loss.mining": _mining(encoder, options),
            "loss.margin": float(options.get("margin", _MARGIN)),
            "loss.epsilon": float(options.get("epsilon", _EPSILON)),
            "loss.similarity": "order" if order else "cosine",
            "loss.reduction": "sum" if encoder == "global" else "mean",
        }
    )
    return config


def _configure_photos(config, options, path):
    """Configures `config` for photos, as vsepp reads them."""
    architecture = options.get("cnn_type")
    pretrained_ones = [name for name in SPECS if name != "stem"]
    if architecture not in pretrained_ones:
        raise InputError(
            f"{path}: its CNN is {architecture!r}, which is not supported; expected "
            f"one of {', '.join(pretrained_ones)}"
        )
    # An evaluation needs no options of the training.
    config.model.backbone.update(name=architecture, weights="")
    config.optimizer.groups = config.fine_tuning = ()
    config.data.image_size = int(
        options.get("crop_size", SPECS[architecture].image_size)
    )
    if config.data.builder == "region_features":
        config.data.builder = "karpathy_images"
        config.data.validation_split = "val"


def convert(
    config: ml_collections.ConfigDict,
    words: Vocabulary,
    loaded: TorchCheckpoint,
    path: str,
) -> dict:
    """Returns the variables of the model that `config` describes.

    Raises:
      InputError: if a parameter is missing or mis-shaped.
    """
    arrays = dict(loaded.arrays)
    embedding = arrays["txt.embed.weight"]
    # Only our vocabulary has `<mask>`, for augmentation; captions do not contain it.
    without_mask = len(words) - len(embedding)
    arrays["txt.embed.weight"] = np.pad(embedding, ((0, without_mask), (0, 0)))
    variables = parameter_names.variables(arrays)
    if loaded.backbone:
        architecture = config.model.backbone.name
        for collection, tree in backbone_weights.convert(
            architecture, loaded.backbone, path
        ).items():
            variables.setdefault(collection, {}).setdefault("image", {})
            variables[collection]["image"]["backbone"] = tree
    _check_shapes(variables, _expected(config, words), path)
    return variables


def _refuse_unknown(arrays, path):
    unknown = [name for name in arrays if not _is_known(name)]
    needed = {"img.fc.weight", "txt.embed.weight", "txt.rnn.weight_ih_l0"}
    missing = sorted(needed - arrays.keys())
    parameters.refuse(
        f"{path}: not a model that can be imported",
        {"unexpected parameters": unknown, "missing parameters": missing},
    )


def _is_known(name):
    try:
        return parameter_names.is_unused(name) or bool(parameter_names.our_path(name))
    except KeyError:
        return False


def _image_encoder(arrays, options):
    """Returns the image encoder, which is that of RVSE++, VSE-infinity or VSE++."""
    if "img.mlp.layers.0.weight" not in arrays:
        return "global"
    embed_dim, region_dim = arrays["img.fc.weight"].shape
    inputs = arrays["img.mlp.layers.0.weight"].shape[1]
    if embed_dim == region_dim:  # equal shapes, so only vse_infty's options differ
        return "region_parallel" if "precomp_enc_type" in options else "region_residual"
    return "region_residual" if inputs == embed_dim else "region_parallel"


def _tokenizer(encoder):
    """Returns the repository's tokenizer; only VSE++'s models are `global`."""
    return "nltk_sentences" if encoder == "global" else "nltk"


def _mining(encoder, options):
    if encoder == "region_residual":
        return "selective"
    return "hardest" if options.get("max_violation", True) else "all"


def _expected(config, words):
    """Returns the shapes of the variables of the model that `config` describes."""
    captions = {
        "tokens": np.zeros((1, 2), np.int32),
        "token_count": np.ones(1, np.int32),
    }
    model = create_model(config, len(words), train=False)
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


def _check_shapes(variables, expected, path):
    found, expected = (
        {name: leaf.shape for name, leaf in _flatten(tree).items()}
        for tree in (variables, expected)
    )
    parameters.refuse(
        f"{path}: its parameters are not those of the model that its options describe",
        parameters.differences(found, expected),
    )


def _flatten(tree):
    return traverse_util.flatten_dict(tree, sep=".")
