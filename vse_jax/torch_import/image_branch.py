"""Image encoders in checkpoint files of the PyTorch repositories.

The parameters and options of a file say which image encoder it has, and which CNN
before it: that of vsepp, or that of vse_infty, which gives a grid of regions.
"""

from typing import Any

import ml_collections

from vse_jax.errors import InputError
from vse_jax.models.backbones import SPECS
from vse_jax.run_config.checks import fits_backbone
from vse_jax.torch_import import backbone_weights, parameter_names, training_options
from vse_jax.torch_import.torch_checkpoint import (
    TorchCheckpoint,
    refuse_other_than_matrices,
    refuse_unknown,
)

_PREFIX = "img"
_PROJECTION = "img.fc.weight"
_HIDDEN = "img.mlp.layers.0.weight"
_POOLING = "img.gpool.linear.weight"
_FEATURES = "region_features"  # dataset of a model without a CNN
# CNNs by vse_infty's option `backbone_source`, which may begin with `vsepp_`.
_SOURCES = {
    "detector": "bottom_up_resnet101",
    "imagenet": "caffe_resnet101",
    "imagenet_res50": "caffe_resnet50",
    "imagenet_res152": "caffe_resnet152",
    "imagenet_resnext": "resnext101_32x8d",
    "resnext": "resnext101_32x8d",
    "wsl": "resnext101_32x8d",
}
_LARGEST_SIDE = 4096  # pixels of photos; more is a damaged option
_GRID_SIDE = 256  # pixels of vse_infty's photos, times an option
# vse_infty registers the CNN as a whole and its two parts, so each parameter is saved
# twice. The forward pass uses the parts.
_PARTS = ("base.", "top.")


def options(loaded: TorchCheckpoint, path: str) -> dict[str, Any]:
    """Returns the options of the image encoder, by dotted names of the configuration.

    Raises:
      InputError: if no image encoder here has these parameters, or if one that tells
        a size is mis-shaped.
    """
    arrays = loaded.branch(_PREFIX)
    refuse_unknown(arrays, [_PROJECTION], path)
    refuse_other_than_matrices(arrays, [_PROJECTION, _HIDDEN], path)
    if _HIDDEN in arrays and len(arrays[_PROJECTION]) < 2:
        raise InputError(
            f"{path}: not a model that can be imported; mis-shaped parameters: "
            f"{_PROJECTION} {arrays[_PROJECTION].shape} instead of 2 rows or more, "
            "since its MLP has half as many hidden numbers"
        )
    embed_dim, region_dim = arrays[_PROJECTION].shape
    return {
        "data.region_dim": region_dim,
        "model.image_encoder": _encoder(arrays, loaded.options),
        "model.embed_dim": embed_dim,
        "model.normalize_image": not training_options.flag(
            loaded.options, "no_imgnorm", False, path
        ),
    }


def configure_data(
    config: ml_collections.ConfigDict, loaded: TorchCheckpoint, path: str
) -> None:
    """Configures `config` for the photos of a model with a CNN, or for features.

    A dataset of the other kind is replaced by the usual one.

    Raises:
      InputError: if the CNN or the size of its photos is not supported.
    """
    # An evaluation needs no options of the training.
    config.optimizer.groups = config.fine_tuning = ()
    config.model.backbone.weights = ""
    if not loaded.backbone:
        config.model.backbone.name = ""
        if config.data.builder != _FEATURES:
            config.data.builder = _FEATURES
            config.data.train_split, config.data.validation_split = "train", "dev"
        return
    is_grid = loaded.options.get("precomp_enc_type") == "backbone"
    of_model = _grid_options if is_grid else _vsepp_options
    config.update_from_flattened_dict(of_model(loaded.options, path))
    use_photos(config)


def use_photos(config: ml_collections.ConfigDict) -> None:
    """Replaces a dataset of features by the usual one of photos, in place."""
    if config.data.builder == _FEATURES:
        config.data.builder = "karpathy_images"
        config.data.validation_split = "val"


def _vsepp_options(options, path):
    architecture = options.get("cnn_type")
    pretrained_ones = [name for name in SPECS if name != "stem"]
    if architecture not in pretrained_ones:
        raise InputError(
            f"{path}: its CNN is {architecture!r}, which is not supported; expected "
            f"one of {', '.join(pretrained_ones)}"
        )
    spec = SPECS[architecture]
    size = training_options.whole_number(
        options, "crop_size", spec.image_size, path, most=_LARGEST_SIDE
    )
    _check_side(size, architecture, "crop_size", path)
    return {"model.backbone.name": architecture, "data.image_size": size}


def _grid_options(options, path):
    """vse_infty stretches photos, and resizes them by OpenCV."""
    source = str(options.get("backbone_source"))
    architecture = _SOURCES.get(source.removeprefix("vsepp_"))
    if not architecture:
        raise InputError(
            f"{path}: its CNN is {source!r} (backbone_source), which is not supported; "
            f"expected one of {', '.join(_SOURCES)}"
        )
    factor = training_options.number(options, "input_scale_factor", 1, path, least=0)
    size = int(min(_GRID_SIDE * factor, 2 * _LARGEST_SIDE))
    _check_side(size, architecture, "input_scale_factor", path)
    return {
        "model.backbone.name": architecture,
        "model.backbone.batch_norm": "frozen",
        "data.image_size": size,
        "data.fit": "stretch",
        "data.resize": 0,
        "data.crops": 1,
        "data.interpolation": "opencv",
    }


def _check_side(size, architecture, option, path):
    """Checks that a CNN takes photos of the size that an option gives."""
    spec = SPECS[architecture]
    if not fits_backbone(size, spec) or size > _LARGEST_SIDE:
        multiple = f", in steps of {spec.multiple}" if spec.multiple > 1 else ""
        raise InputError(
            f"{path}: its option {option} makes photos of {size} x {size} pixels; "
            f"expected {spec.region_size} to {_LARGEST_SIDE}{multiple} with its CNN "
            f"{architecture}; correct the option in the file"
        )


def variables(
    loaded: TorchCheckpoint, config: ml_collections.ConfigDict, path: str
) -> dict:
    """Returns the variables of the image encoder and of its CNN, if it has one.

    Args:
      loaded: the checkpoint.
      config: configuration after `options` and `configure_data`.
      path: path of the checkpoint, for messages.

    Returns:
      Nested dicts below `params` and `batch_stats`.

    Raises:
      InputError: if a parameter of the CNN is missing, unexpected or mis-shaped.
    """
    converted = parameter_names.variables(loaded.branch(_PREFIX))
    if loaded.backbone:
        backbone = backbone_weights.convert(
            config.model.backbone.name, _parts(loaded.backbone), path
        )
        for collection, tree in backbone.items():
            of_images = converted.setdefault(collection, {}).setdefault("image", {})
            of_images["backbone"] = tree
    return converted


def _encoder(arrays, options):
    """Returns the image encoder, which is that of RVSE++, VSE-infinity or VSE++."""
    if _HIDDEN not in arrays:
        return "region_linear" if _POOLING in arrays else "global"
    embed_dim, region_dim = arrays[_PROJECTION].shape
    inputs = arrays[_HIDDEN].shape[1]
    if embed_dim == region_dim:  # equal shapes, so only vse_infty's options differ
        return "region_parallel" if "precomp_enc_type" in options else "region_residual"
    return "region_residual" if inputs == embed_dim else "region_parallel"


def _parts(backbone):
    """Returns the arrays of a CNN, each once."""
    parts = {n: array for n, array in backbone.items() if n.startswith(_PARTS)}
    return parts or backbone
