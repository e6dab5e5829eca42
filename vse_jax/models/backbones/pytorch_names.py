"""Names that PyTorch's files have for the parameters of our backbones.

A layout is one way in which an architecture's parameters are named. It tells, for each
of our layers, the names of its convolution and of its normalization.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

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
    """One way to name the parameters of an architecture.

    Attributes:
      scopes: from the path of a layer of ours to the names of its convolution and of
        its normalization.
      unused: a pattern of names that the features do not depend on.
    """

    scopes: Callable[[Path], tuple[str, str]]
    unused: str


def names(paths: Iterable[Path], layout: Layout) -> dict[str, Path]:
    """Returns our paths, which begin with the collection, by PyTorch's names."""
    return {_name(path, layout): path for path in paths}


def is_unused(name: str, layout: Layout) -> bool:
    """Whether the features do not depend on the parameter."""
    pattern = rf"(.*\.)?num_batches_tracked|{layout.unused}"
    return re.fullmatch(pattern, name) is not None


def layouts(architecture: str, paths: Iterable[Path]) -> list[Layout]:
    """The layouts of an architecture, whose variables have `paths`."""
    blocks = [path[1] for path in paths if path[1].startswith("stage_")]
    blocks = sorted(set(blocks), key=_numbers)
    return [
        Layout(lambda layer: _package_scopes(layer, blocks), r"_fc\.(weight|bias)"),
        Layout(_timm_scopes, r"classifier\.(weight|bias)"),
    ]


def _name(path, layout):
    is_norm = path[-2] == "norm"
    layer = path[1:-2] if is_norm else path[1:-1]
    leaf = _LEAVES[path[0], *path[len(layer) + 1 :]]
    return f"{layout.scopes(layer)[is_norm]}.{leaf}"


def _numbers(block):
    """The stage and the place in it of `stage_1_block_0`, counted from zero."""
    return tuple(map(int, re.findall(r"\d+", block)))


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
# The blocks of its first stage have no expansion, and other names for what they have.
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
