"""Maps parameters of the PyTorch repositories' models to ours.

vsepp, vse_infty and RVSE++ use the same names. Here the names have the prefix `img.`
for the image encoder or `txt.` for the text encoder.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from flax import traverse_util

Path = tuple[str, ...]

_BRANCHES = {"img": ("image", "encoder"), "txt": ("text",)}
_GRU = {
    "weight_ih": "input_kernel",
    "weight_hh": "recurrent_kernel",
    "bias_ih": "input_bias",
    "bias_hh": "recurrent_bias",
}
_GRUS = {
    "rnn": ("gru",),
    "gpool.gru": ("pooling", "gru"),
}
_LAYERS = {
    "fc.weight": ("params", "projection", "kernel"),
    "fc.bias": ("params", "projection", "bias"),
    "linear.weight": ("params", "projection", "kernel"),  # of BERT
    "linear.bias": ("params", "projection", "bias"),
    "mlp.layers.0.weight": ("params", "mlp", "hidden", "kernel"),
    "mlp.layers.0.bias": ("params", "mlp", "hidden_bias"),
    "mlp.layers.1.weight": ("params", "mlp", "out", "kernel"),
    "mlp.layers.1.bias": ("params", "mlp", "out", "bias"),
    "mlp.bns.0.weight": ("params", "mlp", "norm", "scale"),
    "mlp.bns.0.bias": ("params", "mlp", "norm", "bias"),
    "mlp.bns.0.running_mean": ("batch_stats", "mlp", "norm", "mean"),
    "mlp.bns.0.running_var": ("batch_stats", "mlp", "norm", "variance"),
    "gpool.linear.weight": ("params", "pooling", "score", "kernel"),
    "embed.weight": ("params", "words", "embedding"),
}


def is_unused(name: str) -> bool:
    """Returns whether the forward pass of those models never reads the parameter."""
    # Their code creates the last layer's normalization but does not apply it.
    return name.endswith("num_batches_tracked") or ".mlp.bns.1." in name


def our_path(name: str, *, both_directions: bool = True) -> Path:
    """Returns the path in our variables of a name such as `img.fc.weight`.

    Args:
      name: name of a parameter or a running statistic that is used.
      both_directions: whether the text encoder's GRU has two directions.

    Raises:
      KeyError: if no supported model has this parameter.
    """
    branch, _, rest = name.partition(".")
    collection, *path = _LAYERS.get(rest) or _gru_path(rest, both_directions)
    return (collection, *_BRANCHES[branch], *path)


def _gru_path(name, both_directions):
    scope, _, leaf = name.rpartition(".")
    kind, _, direction = leaf.partition("_l0")
    if direction not in ("", "_reverse"):  # names of a second layer contain `_l1`
        raise KeyError(name)
    directions = ("backward" if direction else "forward",)
    if scope == "rnn" and not both_directions:
        directions = ()
    return ("params", *_GRUS[scope], *directions, _GRU[kind])


def variables(arrays: Mapping[str, np.ndarray]) -> dict:
    """Converts parameters and running statistics to our variables.

    Args:
      arrays: arrays by PyTorch's names.

    Returns:
      Nested dicts under `params` and `batch_stats`.

    Raises:
      KeyError: if no supported model has a parameter of some name.
    """
    both_directions = has_both_directions(arrays)
    flat = {}
    for name, array in arrays.items():
        if not is_unused(name):
            path = our_path(name, both_directions=both_directions)
            flat[path] = array.T if path[-1].endswith("kernel") else array
    return traverse_util.unflatten_dict(flat)


def has_both_directions(names: Iterable[str]) -> bool:
    """Returns whether the text encoder's GRU runs in both directions."""
    return "txt.rnn.weight_ih_l0_reverse" in names
