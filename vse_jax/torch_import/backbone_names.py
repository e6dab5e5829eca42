"""Names of our backbones' parameters in PyTorch files.

A layout is a naming scheme of an architecture's parameters. It maps each of our layers
to the names of its convolution and its normalization.
"""

import functools
import re
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from vse_jax.models.backbones import vgg

Path = tuple[str, ...]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "bias"): "bias",
    ("params", "norm", "scale"): "weight",
    ("params", "norm", "bias"): "bias",
    ("batch_stats", "norm", "mean"): "running_mean",
    ("batch_stats", "norm", "variance"): "running_var",
}


class Layout(NamedTuple):
    """A naming scheme of an architecture's parameters.

    Attributes:
      scopes: maps the path of one of our layers to the names of its convolution and its
        normalization.
      unused: pattern of the names of parameters that the features do not depend on.
    """

    scopes: Callable[[Path], tuple[str, str]]
    unused: str


def names(paths: Iterable[Path], layout: Layout) -> dict[str, Path]:
    """Maps PyTorch's names to our paths, which start with the collection."""
    return {_name(path, layout): path for path in paths}


def is_unused(name: str, layout: Layout) -> bool:
    """Returns whether the features do not depend on the parameter."""
    pattern = rf"(.*\.)?num_batches_tracked|{layout.unused}"
    return re.fullmatch(pattern, name) is not None


def layouts(architecture: str, paths: Iterable[Path]) -> list[Layout]:
    """Returns the layouts that files of an architecture may have.

    Args:
      architecture: one of `BACKBONES` except the stem.
      paths: paths of its variables.
    """
    layers = {path[1] for path in paths}
    if architecture.startswith("efficientnet_lite"):
        blocks = [layer for layer in layers if layer.startswith("stage_")]
        blocks.sort(key=_numbers)
        package = functools.partial(_package_scopes, blocks=blocks)
        return [
            Layout(package, r"_fc\.(weight|bias)"),
            Layout(_timm_scopes, r"classifier\.(weight|bias)"),
        ]
    if architecture == "vgg19":
        unused = r"classifier\.6\..*" if "hidden_0" in layers else r"classifier\..*"
        return [Layout(_vgg_scopes, unused)]
    torchvision = Layout(_resnet_scopes, r"fc\.(weight|bias)")
    return [torchvision, Layout(_detector_scopes, r"fc\.(weight|bias)")]


def has_first_layer(architecture: str, names: Container[str]) -> bool:
    """Returns whether `names` include that of the first layer, in any layout."""
    first = "stage_0_convolution_0" if architecture == "vgg19" else "stem"
    path = ("params", first, "kernel")
    return any(_name(path, layout) in names for layout in layouts(architecture, [path]))


def _name(path, layout):
    is_norm = path[-2] == "norm"
    layer = path[1:-2] if is_norm else path[1:-1]
    leaf = _LEAVES[path[0], *path[len(layer) + 1 :]]
    return f"{layout.scopes(layer)[is_norm]}.{leaf}"


def _numbers(block):
    """Returns the zero-based stage and position of a block like `stage_1_block_0`."""
    return tuple(map(int, re.findall(r"\d+", block)))


# ResNet, in torchvision and timm, and as VSE-infinity's code saves that of a detector:
# one sequence has everything before the last stage, another one has the last stage.

_DETECTOR_MODULES = {
    "conv1": "base.0",
    "bn1": "base.1",
    "layer1": "base.4",
    "layer2": "base.5",
    "layer3": "base.6",
    "layer4": "top.0",
}


def _resnet_scopes(layer):
    *block, kind = layer
    if not block:
        return "conv1", "bn1"
    stage, place = _numbers(block[0])
    prefix = f"layer{stage + 1}.{place}."
    if kind == "shortcut":
        return f"{prefix}downsample.0", f"{prefix}downsample.1"
    number = kind.removeprefix("convolution_")
    return f"{prefix}conv{number}", f"{prefix}bn{number}"


def _detector_scopes(layer):
    return tuple(
        re.sub(r"^\w+", lambda match: _DETECTOR_MODULES[match[0]], scope)
        for scope in _resnet_scopes(layer)
    )


# VGG-19, in torchvision: positions in a sequence that includes activations and pooling.

_VGG_HIDDEN = {"hidden_0": "classifier.0", "hidden_1": "classifier.3"}


def _vgg_scopes(layer):
    (name,) = layer
    if name in _VGG_HIDDEN:
        return _VGG_HIDDEN[name], ""
    stage, place = _numbers(name)
    before = sum(2 * count + 1 for count in vgg.CONVOLUTIONS[:stage])
    return f"features.{before + 2 * place}", ""


# EfficientNet-Lite, in the package efficientnet-lite-pytorch and in timm.

_PACKAGE = {
    ("stem",): ("_conv_stem", "_bn0"),
    ("expansion",): ("_expand_conv", "_bn0"),
    ("depthwise",): ("_depthwise_conv", "_bn1"),
    ("projection",): ("_project_conv", "_bn2"),
    ("head",): ("_conv_head", "_bn1"),
}
_TIMM = {
    ("stem",): ("conv_stem", "bn1"),
    ("expansion",): ("conv_pw", "bn1"),
    ("depthwise",): ("conv_dw", "bn2"),
    ("projection",): ("conv_pwl", "bn3"),
    ("head",): ("conv_head", "bn2"),
}
# Blocks of the first stage have no expansion, and other names for the other layers.
_TIMM_FIRST_STAGE = {
    ("depthwise",): ("conv_dw", "bn1"),
    ("projection",): ("conv_pw", "bn2"),
}


def _package_scopes(layer, blocks):
    *block, kind = layer
    prefix = f"_blocks.{blocks.index(block[0])}." if block else ""
    return _with_prefix(prefix, _PACKAGE[kind,])


def _timm_scopes(layer):
    *block, kind = layer
    if not block:
        return _TIMM[layer]
    stage, place = _numbers(block[0])
    kinds = _TIMM if stage else _TIMM_FIRST_STAGE
    return _with_prefix(f"blocks.{stage}.{place}.", kinds[kind,])


def _with_prefix(prefix, scopes):
    return tuple(prefix + scope for scope in scopes)
